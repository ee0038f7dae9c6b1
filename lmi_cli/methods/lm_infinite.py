"""LM-Infinite: a window at true distance and a few starting tokens at one capped distance.

Han et al., "LM-Infinite: Zero-Shot Extreme Length Generalization for Large Language Models",
NAACL 2024 (arXiv 2308.16137), section 3.

Some layers may attend to everything, as in MASFormer (Zhang et al., "Efficient Long-Range
Transformers: You Need to Attend More, but Not Necessarily at Every Layer", Findings of EMNLP 2023,
arXiv 2310.12442), and so may the heads that retrieve, as in DuoAttention (Xiao et al. 2024,
"Efficient Long-Context LLM Inference with Retrieval and Streaming Heads", arXiv 2410.10819), which
chooses by key head, as we do: all query heads that share a key head attend alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.attention.segment import SEARCHES, First, Fixed, Recent, Search, Segment, Track
from lmi_cli.errors import UsageError
from lmi_cli.methods.base import (
    SINKS,
    WINDOW,
    Circumstances,
    Method,
    MethodOption,
    Parameter,
    narrower,
    number,
    reaches_beyond,
)
from lmi_cli.methods.places import key_heads_in, key_heads_text, layers_in, layers_text

LEAST_SINKS = 10
"""Starting tokens kept for ever, at least (section 5 of the paper)."""

# Shares of the whole, after the paper's 5 of 4,096 tokens, layer 4 of 32 and half the ceiling.
_TOPK = 32
_FROM_LAYER_SHARE = 8
_DISTANCE_SHARE = 4

DENSE_HEADS = ("calibrated",)
"""How heads that attend to everything are chosen: those that ``lmi models calibrate`` has found."""

_MOST_PERCENT = 100
_PERCENT = {"exact": _MOST_PERCENT, "pruned": 5, "clusters": 10}
"""Of the stored keys, how many are scored; ``docs/memory.md`` has the measurements."""


@dataclass(frozen=True)
class LMInfinite(Method):
    """Lambda-shaped attention with a distance ceiling.

    A query at ``i`` sees the keys ``j`` with ``0 <= i - j < window`` at their true distance, and
    the keys ``j < sinks`` with ``i - j >= window`` all at distance ``ceiling``. In a dense layer,
    and in dense key heads of any layer, it sees every key with ``i - j >= window`` at that distance
    instead, as far back as the layer's own sliding window goes.

    Args:
        window: Tokens, the query itself included.
        sinks: Number of starting tokens that stay visible for ever.
        ceiling: Distance, in tokens, at which the starting tokens are seen; at least ``window``.
        memory_topk: Tokens between sinks and window that a query head may attend to (section 3.3);
            None leaves them unseen, as they are while the document is read.
        memory_from_layer: First layer, zero-based, whose queries search for them.
        memory_distance: The one distance, in tokens, at which they are scored and attended to.
        memory_search: How they are found; see :class:`Search`.
        memory_percent: Of a hundred stored tokens, how many a search scores one by one.
        dense_layers: Layers that attend to everything, as in ``0,5,11``; None for none.
        dense_heads: How the dense key heads were chosen, one of ``DENSE_HEADS``; None for none.
        dense_key_heads: Which those are in the model, as in ``2.1,17.0`` (layer and key head).

    Raises:
        UsageError: ``1 <= window <= ceiling`` or ``sinks >= 0`` does not hold, the distance of
            the memory is beyond the ceiling, there is no such search, or no layers or heads are
            named where they should be.
    """

    window: int
    sinks: int
    ceiling: int
    memory_topk: int | None = None
    memory_from_layer: int | None = None
    memory_distance: int | None = None
    memory_search: str | None = None
    memory_percent: int | None = None
    dense_layers: str | None = None
    dense_heads: str | None = None
    dense_key_heads: str | None = None

    name: ClassVar[str] = "lm-infinite"
    options: ClassVar[tuple[MethodOption, ...]] = (
        WINDOW,
        SINKS,
        MethodOption("ceiling", "Distance at which the starting tokens are seen."),
        MethodOption("memory_topk", "Tokens of the store that a query head attends to.",
                     fixed=False),
        MethodOption("memory_from_layer", "First layer that searches the store.", least=0,
                     fixed=False),
        MethodOption("memory_distance", "Distance at which tokens of the store are seen.",
                     fixed=False),
        MethodOption("memory_search", "How these tokens are found: exact scores all of them, "
                     "pruned the best chunks, clusters the best clusters of similar keys.",
                     choices=SEARCHES, fixed=False),
        MethodOption("memory_percent", "Of a hundred stored tokens, how many pruned and clusters "
                     "score one by one.", fixed=False),
        MethodOption("dense_layers", "Layers that attend to everything, as in 0,5,8-11; what lies "
                     "beyond the window stands at the ceiling.", layers=True),
        MethodOption("dense_heads", "Heads that attend to everything in the same way: calibrated "
                     "takes the model's retrieval heads and those that share their keys.",
                     choices=DENSE_HEADS),
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UsageError(f"window {self.window}: the smallest is 1 token, the query itself")
        if self.ceiling < self.window:
            raise UsageError(
                f"ceiling {self.ceiling} is below the window {self.window}",
                hint="starting tokens cannot stand nearer than the window; raise --ceiling",
            )
        if self.sinks < 0:
            raise UsageError(f"sinks {self.sinks}: the smallest is 0")
        if (self.memory_distance or 0) > self.ceiling:
            raise UsageError(
                f"memory-distance {self.memory_distance} is beyond the ceiling of {self.ceiling}"
            )
        if self.dense_layers is not None:
            layers_in(self.dense_layers)
        if self.dense_heads not in (None, *DENSE_HEADS):
            raise UsageError(f"unknown dense-heads {self.dense_heads!r}")
        if self.dense_key_heads is not None:
            key_heads_in(self.dense_key_heads)
        _search(self.parameters())

    @classmethod
    def build(cls, given: Mapping[str, Parameter], circumstances: Circumstances) -> Self:
        """Ceiling at the window, and no fewer sinks than the paper has or the prefix needs."""
        _search(given)  # which refuses what cannot be searched before anything is read
        most, dense = circumstances.window, given.get("dense_layers")
        window = number(given, "window", min(most, number(given, "ceiling", most)))
        if dense is not None:
            dense = layers_text(named := layers_in(str(dense)))
            if circumstances.layers is not None and named[-1] >= circumstances.layers:
                raise UsageError(
                    f"--dense-layers: there is no layer {named[-1]:,}, as the model has "
                    f"{circumstances.layers:,} layers",
                    hint=f"layers are numbered from 0 to {circumstances.layers - 1:,}",
                )
        heads = circumstances.retrieval if cls.needs_retrieval_heads(given) else ()
        return cls(
            window=window,
            sinks=number(given, "sinks", max(LEAST_SINKS, circumstances.prefix_tokens)),
            ceiling=number(given, "ceiling", window),
            dense_layers=dense,
            dense_heads=None if "dense_heads" not in given else str(given["dense_heads"]),
            dense_key_heads=key_heads_text(heads) or None,
        )

    @classmethod
    def needs_retrieval_heads(cls, given: Mapping[str, Parameter]) -> bool:
        """For dense heads."""
        return "dense_heads" in given

    @property
    def local_window(self) -> int | None:
        """The window."""
        return self.window

    @property
    def mixed(self) -> bool:
        """With dense layers or heads."""
        return self.dense_layers is not None or self.dense_heads is not None

    def tracks(self, layer: LayerSpec) -> tuple[Track, ...]:
        """The window; beside it, the sinks or every token, rotated to the stream's beginning."""
        tracks = [Track("window", Recent(narrower(self.window, layer.native_window)))]
        dense, others = self._divided(layer)
        if others and self.sinks > 0:
            tracks.append(Track("sinks", First(self.sinks), Fixed(0), _some(others, layer)))
        if dense:
            every = Recent(layer.native_window)
            tracks.append(Track("everything", every, Fixed(0), _some(dense, layer)))
        return tuple(tracks)

    def segments(self, layer: LayerSpec) -> tuple[Segment, ...]:
        """The window; what has left it: sinks, everything, or the middle if it is searched."""
        segments = [Segment("window", farthest=narrower(self.window, layer.native_window))]
        dense, others = self._divided(layer)
        ceiling = Fixed(self.ceiling)
        if others and self.sinks > 0:
            segments.append(Segment("sinks", ceiling, nearest=self.window))
        if dense:
            segments.append(Segment("everything", ceiling, self.window, layer.native_window))
        searches = self.memory_topk is not None and self.may_search(layer)
        if searches and layer.index >= (self.memory_from_layer or 0):
            segments.append(
                Segment(
                    "store",
                    Fixed(self.memory_distance or self.ceiling),
                    nearest=self.window,
                    topk=self.memory_topk,
                    search=_search(self.parameters()),
                    heads=_some(others, layer),
                )
            )
        return tuple(segments)

    def may_search(self, layer: LayerSpec) -> bool:
        """Whether the layer sees beyond our window, and some head of it not everything there.

        A store has all chunks of a stream, of which a chunked layer sees one.
        """
        return not layer.chunked and bool(self._divided(layer)[1])

    def _divided(self, layer: LayerSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The key heads of a layer that attend to everything, and those beside the window to sinks.

        None of either in a layer that sees nothing beyond our window.
        """
        if not reaches_beyond(self.window, layer):
            return (), ()
        every = tuple(range(layer.key_heads))
        if self.dense_layers is not None and layer.index in layers_in(self.dense_layers):
            return every, ()
        if self.dense_heads is None:
            return (), every
        if self.dense_key_heads is None:
            raise RuntimeError("the retrieval heads of the model are not known")
        dense = {head for at, head in key_heads_in(self.dense_key_heads) if at == layer.index}
        if dense - set(every):
            raise ValueError(f"layer {layer.index} has no key head {max(dense)}")
        return tuple(sorted(dense)), tuple(head for head in every if head not in dense)

    def searching(self, given: Mapping[str, Parameter], layers: int) -> Method:
        """With the middle searched; see ``docs/memory.md`` for the defaults."""
        search = _search(given)
        return replace(
            self,
            memory_topk=number(given, "memory_topk", _TOPK),
            memory_from_layer=number(given, "memory_from_layer", layers // _FROM_LAYER_SHARE),
            memory_distance=number(
                given, "memory_distance", max(1, self.ceiling // _DISTANCE_SHARE)
            ),
            memory_search=search.kind,
            memory_percent=None if search == Search() else search.percent,
        )


def _some(heads: tuple[int, ...], layer: LayerSpec) -> tuple[int, ...] | None:
    """Key heads of a layer; None if they are all that it has."""
    return None if len(heads) == layer.key_heads else heads


def _search(given: Mapping[str, Parameter]) -> Search:
    """The search that parameters describe; by default every key is scored.

    Raises:
        UsageError: There is no such search.
    """
    kind = str(given.get("memory_search", SEARCHES[0]))
    if kind not in SEARCHES:
        raise UsageError(f"unknown memory-search {kind!r}", hint="one of " + ", ".join(SEARCHES))
    percent = number(given, "memory_percent", _PERCENT[kind])
    if not 1 <= percent <= _MOST_PERCENT:
        raise UsageError(f"memory-percent {percent}: the range is 1 to {_MOST_PERCENT}")
    if kind == SEARCHES[0] and percent != _PERCENT[kind]:
        raise UsageError(
            f"memory-percent {percent}: an exact search scores all stored tokens",
            hint="choose --memory-search clusters or pruned",
        )
    return Search(kind, percent)
