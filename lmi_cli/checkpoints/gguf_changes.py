"""What converters to GGUF change in the weights of a model, undone.

Each function takes the tensors of a file that make one tensor of the model. Those in `OF_ROWS` only
move whole rows, so they take rows of blocks as well. Imports torch when one is used.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Heads(NamedTuple):
    """Heads in a layer.

    Attributes:
        queries: Number of query heads.
        keys: Number of key heads.
        linear_keys: Number of key heads of linear attention.
        linear_values: Number of value heads of linear attention.
        linear_width: Number of components of all its values.
    """

    queries: int
    keys: int
    linear_keys: int = 0
    linear_values: int = 0
    linear_width: int = 0


Change = Callable[[Sequence["Tensor"], Heads], "Tensor"]


def same(found: Sequence["Tensor"], heads: Heads) -> "Tensor":
    """Nothing was changed."""
    return found[0]


def halves_of_queries(found: Sequence["Tensor"], heads: Heads) -> "Tensor":
    """Components 2p and 2p + 1 of a head become p and p + size / 2, as Llama's rotary pairs."""
    return _halves(found[0], heads.queries)


def halves_of_keys(found: Sequence["Tensor"], heads: Heads) -> "Tensor":
    """Likewise for keys."""
    return _halves(found[0], heads.keys)


def _halves(rows: "Tensor", heads: int) -> "Tensor":
    return rows.view(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def grouped(found: Sequence["Tensor"], heads: Heads) -> "Tensor":
    """All queries, all keys, all values become groups of each key head's queries, key and value."""
    import torch

    (rows,) = found
    size = rows.shape[0] // (heads.queries + 2 * heads.keys)
    parts = rows.split([heads.queries * size, heads.keys * size, heads.keys * size])
    by_key = [part.reshape(heads.keys, -1, *rows.shape[1:]) for part in parts]
    return torch.cat(by_key, 1).reshape(rows.shape)


def less_one(found: Sequence["Tensor"], heads: Heads) -> "Tensor":
    """A norm that multiplies by one more than its weights is stored with the one."""
    return found[0].float() - 1


def one_row(found: Sequence["Tensor"], heads: Heads) -> "Tensor":
    """A matrix of one row is stored without that dimension."""
    return found[0].reshape(1, -1)


def filters(found: Sequence["Tensor"], heads: Heads) -> "Tensor":
    """The filters of a convolution are stored without the dimension of one channel."""
    return found[0].unsqueeze(1)


def log_of_decay(found: Sequence["Tensor"], heads: Heads) -> "Tensor":
    """Mamba's A is stored as it is used, the negative of an exponential."""
    return (-found[0].float()).log()


def stacked(found: Sequence["Tensor"], heads: Heads) -> "Tensor":
    """Gates ``[experts, inner, hidden]`` above what they multiply."""
    import torch

    return torch.cat(tuple(found), 1)


def transposed(found: Sequence["Tensor"], heads: Heads) -> "Tensor":
    """The matrix of each expert."""
    return found[0].transpose(1, 2)


def alternating(found: Sequence["Tensor"], heads: Heads) -> "Tensor":
    """Gates and what they multiply, in turn: ``[experts, inner, ...]`` each."""
    import torch

    return torch.stack(tuple(found), 2).flatten(1, 2)


def alternating_columns(found: Sequence["Tensor"], heads: Heads) -> "Tensor":
    """Likewise as columns of each expert."""
    return alternating(found, heads).transpose(1, 2)


def by_key_head(found: Sequence["Tensor"], heads: Heads) -> "Tensor":
    """Linear attention: value heads, of which a file has one of each key head after another."""
    rows = found[0]
    each = heads.linear_values // max(1, heads.linear_keys)
    tiled = rows.reshape(each, heads.linear_keys, -1, *rows.shape[1:])
    return tiled.transpose(0, 1).reshape(rows.shape)


def values_by_key_head(found: Sequence["Tensor"], heads: Heads) -> "Tensor":
    """Likewise the last rows, those of values."""
    import torch

    (rows,) = found
    values = by_key_head([rows[-heads.linear_width :]], heads)
    return torch.cat([rows[: -heads.linear_width], values])


def filters_by_key_head(found: Sequence["Tensor"], heads: Heads) -> "Tensor":
    """Likewise for the filters of a convolution."""
    return values_by_key_head(found, heads).unsqueeze(1)


def columns_by_key_head(found: Sequence["Tensor"], heads: Heads) -> "Tensor":
    """Likewise for what takes the values."""
    return by_key_head([found[0].T], heads).T


def decay_by_key_head(found: Sequence["Tensor"], heads: Heads) -> "Tensor":
    """Likewise for the decay of each head, stored as Mamba's."""
    return by_key_head([log_of_decay(found, heads)], heads)


def row(number: int, found: Sequence["Tensor"], heads: Heads) -> "Tensor":
    """One of the rows that are one tensor in a file."""
    return found[0][number]


OF_ROWS = (same, halves_of_queries, halves_of_keys, grouped)
