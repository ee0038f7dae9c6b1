"""Which architectures of GGUF files lmi reads, and which tensors of a model a file makes.

Imports the standard library only.
"""

import re
from collections.abc import Iterator, Set
from functools import partial
from typing import NamedTuple

from lmi_cli.checkpoints.gguf import GgufHeader
from lmi_cli.checkpoints.gguf_changes import Change, row, same
from lmi_cli.checkpoints.gguf_dense import DENSE
from lmi_cli.checkpoints.gguf_description import Architecture, layer_count
from lmi_cli.checkpoints.gguf_linear import LINEAR
from lmi_cli.checkpoints.gguf_other import OTHER
from lmi_cli.errors import ModelError

ARCHITECTURES = DENSE | OTHER | LINEAR
_REASONS = {
    "gpt2": "learned absolute positions end at the trained length",
    "starcoder": "learned absolute positions end at the trained length",
    "t5": "it is an encoder-decoder",
    "t5encoder": "it is an encoder",
    "bert": "it is an encoder",
    "nomic-bert": "it is an encoder",
    "jina-bert-v2": "it is an encoder",
    "modern-bert": "it is an encoder",
    "deci": "transformers has no such model",
}

IGNORED = frozenset(("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"))
"""Tensors that the configuration stands for; layers that only draft tokens are left out too."""

_LAYER = re.compile(r"blk\.(\d{1,4})\.(.+)")


class Target(NamedTuple):
    """A tensor of a model.

    Attributes:
        name: Its name.
        sources: Names in the file of what it is made of.
        change: What makes it.
    """

    name: str
    sources: tuple[str, ...]
    change: Change


def architecture_of(file: str, header: GgufHeader) -> Architecture:
    """The description of a file's architecture.

    Args:
        file: The file's name.
        header: Its header.

    Raises:
        ModelError: There is none; the hint lists the others.
    """
    for described in ARCHITECTURES.get(header.architecture, ()):
        if described.applies(header):
            return described
    reason = _REASONS.get(header.architecture, "it is not supported in GGUF files")
    raise ModelError(
        f"{file}: its architecture is {header.architecture[:80]!r}: {reason}",
        hint=f"supported in GGUF files: {', '.join(sorted(ARCHITECTURES))}",
    )


def layer_tensors(file: str, header: GgufHeader) -> list[Set[str]]:
    """Names of the tensors in each layer that does not only draft tokens.

    Raises:
        ModelError: A layer has none, or there are no layers.
    """
    layers: list[set[str]] = [set() for _ in range(layer_count(header))]
    for name in header.tensors:
        if (found := _LAYER.fullmatch(name)) is not None and int(found[1]) < len(layers):
            layers[int(found[1])].add(found[2])
    if not layers:
        raise ModelError(f"{file} describes a model without layers")
    for at, tensors in enumerate(layers):
        if not tensors:
            raise ModelError(
                f"{file} describes {len(layers):,} layers but holds no tensor of layer {at}"
            )
    return list(layers)


def targets(file: str, architecture: Architecture, header: GgufHeader) -> Iterator[Target]:
    """The tensors that a file makes, in its order.

    Raises:
        ModelError: The file has a tensor that the architecture has not.
    """
    later = {name for made in architecture.made.values() for name in made.sources[1:]}
    first = {made.sources[0]: target for target, made in architecture.made.items()}
    layers, every = layer_count(header), header.values.get(f"{header.architecture}.block_count")
    for source, tensor in header.tensors.items():
        layer = _LAYER.fullmatch(source)
        is_draft = layer is not None and layers != every and int(layer[1]) >= layers
        if source in IGNORED or is_draft:
            continue
        inside = layer[2] if layer else source
        before = architecture.layer.format(layer[1]) if layer else ""
        if layer and inside in later:
            continue
        if layer and inside in first:
            made = architecture.made[first[inside]]
            sources = tuple(f"blk.{layer[1]}.{name}" for name in made.sources)
            yield Target(before + first[inside], sources, made.change)
            continue
        stem, _, kind = inside.rpartition(".")
        name = (architecture.inner if layer else architecture.outer).get(stem)
        if name is None:
            raise ModelError(
                f"{file}: a model of the family {architecture.family} has no tensor {source}",
                hint="use the model's safetensors form",
            )
        target = f"{before}{name}.{kind}"
        if "*" in target:
            for number in range(tensor.shape[0]):
                yield Target(target.replace("*", str(number)), (source,), partial(row, number))
        else:
            change = architecture.changes.get(inside) or architecture.changes.get(stem, same)
            yield Target(target, (source,), change)
