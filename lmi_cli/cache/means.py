"""Final hidden states of a document, averaged over short blocks of tokens.

They are the second signal for finding passages, beside the keys of retrieval heads: much lighter,
and independent of where passages begin and end.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmi_cli.cache import MEAN_TOKENS

_STRETCHES = 4096


class StateMeans:
    """The mean final hidden state of every ``MEAN_TOKENS`` tokens of a document.

    Args:
        first: True position of the first token that counts.

    Attributes:
        tokens: Number of tokens added so far.
    """

    def __init__(self, *, first: int = 0) -> None:
        self.first = first
        self.tokens = 0
        self._rows: list[Tensor] = []
        self._rest: Tensor | None = None
        """Sum of the states of the last block, while it is not full; float32."""

    def append(self, hidden: Tensor, position: int) -> None:
        """Add tokens, in stream order.

        Args:
            hidden: ``[n, hidden]``.
            position: True position of the first of them.
        """
        hidden = hidden[max(0, self.first - position) :].cpu()
        if not len(hidden):
            return
        begun = self.tokens % MEAN_TOKENS
        whole, left = divmod(begun + len(hidden), MEAN_TOKENS)
        padding = (0, 0, begun, MEAN_TOKENS - left)
        padded = torch.nn.functional.pad(hidden.float(), padding)
        sums = padded.view(whole + 1, MEAN_TOKENS, -1).sum(1)
        if self._rest is not None:
            sums[0] += self._rest
        if whole:
            self._rows.append((sums[:whole] / MEAN_TOKENS).to(hidden.dtype))
        self._rest = sums[whole].clone()
        self.tokens += len(hidden)

    def of_passages(self, borders: NDArray[np.int64]) -> Tensor:
        """The mean state of each passage.

        Args:
            borders: Positions in the stream at which passages begin, and that of its end. A block
                that a border divides counts on both sides, by its tokens there.

        Returns:
            float32 ``[passages, hidden]``; zero for a passage without any token that counts.

        Raises:
            RuntimeError: No token has been added.
        """
        if self._rest is None:
            raise RuntimeError("there are no states")
        rows = torch.cat([*self._rows, self._rest[None] / max(1, self.tokens % MEAN_TOKENS)])
        borders = np.clip(borders - self.first, 0, self.tokens)
        blocks = np.arange(0, self.tokens, MEAN_TOKENS)
        edges = np.union1d(blocks[(blocks > borders[0]) & (blocks < borders[-1])], borders)
        # A stretch between two edges belongs to one block and to one passage.
        starts, lengths = edges[:-1], torch.from_numpy(np.diff(edges)).float()
        passage = torch.from_numpy(np.searchsorted(borders, starts, side="right") - 1)
        block = torch.from_numpy(starts // MEAN_TOKENS)
        result = torch.zeros(len(borders) - 1, rows.shape[1])
        for at in range(0, len(starts), _STRETCHES):
            some = slice(at, at + _STRETCHES)
            weighted = rows[block[some]].float() * lengths[some, None]
            result.index_add_(0, passage[some], weighted)
        return result / torch.from_numpy(np.diff(borders)).clamp_min(1)[:, None]

    def fork(self) -> "StateMeans":
        """An independent continuation; what it shares is never written to."""
        other = StateMeans(first=self.first)
        other.tokens, other._rows, other._rest = self.tokens, list(self._rows), self._rest
        return other

    def save(self) -> dict[str, Tensor]:
        """What :meth:`restore` needs, by name; empty if no token has been added."""
        if self._rest is None:
            return {}
        none = self._rest.new_empty(0, len(self._rest))
        return {"rows": torch.cat(self._rows) if self._rows else none, "rest": self._rest}

    def restore(self, tensors: Mapping[str, Tensor], tokens: int) -> None:
        """Restore what :meth:`save` returned after a number of tokens.

        Raises:
            KeyError: A tensor is missing.
            ValueError: These are not the states of so many tokens.
        """
        if not tokens and not tensors:
            return
        rows, rest = tensors["rows"], tensors["rest"]
        if len(tensors) != 2 or rows.shape != (tokens // MEAN_TOKENS, *rest.shape):
            raise ValueError(f"there are {len(rows):,} mean states of {tokens:,} tokens")
        self.tokens, self._rest, self._rows = tokens, rest, [rows] if len(rows) else []

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(rows.nbytes for rows in self._rows)
