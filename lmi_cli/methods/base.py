"""What every method declares, and what follows from that alone.

A method computes nothing. It says what the cache keeps, what a query sees, what the command line
may set and which of these settings are fixed once a document has been read. Nothing outside this
package asks which method it is dealing with. Imports ``attention``; neither torch nor numpy is
loaded.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from lmi_cli.attention.layer import LayerSpec, RopeScaling
from lmi_cli.attention.segment import Blocks, First, Segment, Track
from lmi_cli.errors import UsageError
from lmi_cli.methods.places import KeyHead, layers_in

Parameter = int | str
"""A parameter of a method: a number, or a name among some."""


@dataclass(frozen=True, slots=True)
class MethodOption:
    """A parameter that the user may set.

    Attributes:
        name: As in reports; with hyphens it is the name of the option.
        help: One sentence for the command line.
        least: Smallest value, of a number.
        choices: Possible values, of a name; none for a number.
        layers: Whether it is a list of layers, as in ``0,5,8-11``.
        fixed: Whether it is decided when a document is read. Other options may be set anew for
            every question.
    """

    name: str
    help: str
    least: int = 1
    choices: tuple[str, ...] = ()
    layers: bool = False
    fixed: bool = True

    @property
    def flag(self) -> str:
        """The name of the command-line option."""
        return "--" + self.name.replace("_", "-")

    def check(self, value: Parameter) -> None:
        """Refuse a value that is out of range, not among the choices, or no list of layers.

        Raises:
            UsageError: It is.
        """
        if self.layers:
            layers_in(str(value))
            return
        if self.choices and value not in self.choices:
            raise UsageError(
                f"unknown value {value!r} for {self.flag}", hint="one of " + ", ".join(self.choices)
            )
        if not self.choices and int(value) < self.least:
            raise UsageError(f"{self.flag} {value}: the smallest is {self.least}")


WINDOW = MethodOption(
    "window",
    "Recent tokens that are seen at their true distance; with truncate, all tokens that are read.",
)
"""The option of every method that has a window."""

SINKS = MethodOption("sinks", "Starting tokens that stay visible.", least=0)
"""The option of every method that keeps starting tokens."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the defaults of a method's parameters follow from.

    Attributes:
        window: Window, in tokens, that suits the model and the task.
        prefix_tokens: Tokens that stand in front of every stream, such as BOS.
        trained_length: Trained length of the model, in tokens.
        tokens: Tokens of the whole sequence, question and answer included; None if not known.
        layers: Attention layers of the model; None as long as options are only checked for
            contradictions.
        retrieval: Key heads of its retrieval heads, for a method that needs them.
        recurrent: Whether some of its layers carry a state; None if not known.
    """

    window: int
    prefix_tokens: int
    trained_length: int
    tokens: int | None = None
    layers: int | None = None
    retrieval: tuple[KeyHead, ...] = ()
    recurrent: bool | None = None


@dataclass(frozen=True, slots=True)
class Truncation:
    """How a text that does not fit is cut, so that a part is read as if it were the whole.

    Attributes:
        length: Tokens of the longest sequence: prompt, part of the text, question and answer.
        middle: Whether both ends are kept; otherwise the end is.
    """

    length: int
    middle: bool = False

    def ends(self, room: int) -> tuple[int, int]:
        """How many of the first and of the last tokens are kept where ``room`` of them can be."""
        first = room // 2 if self.middle else 0
        return first, room - first

    def require_stride(self, stride: int) -> None:
        """Refuse a stride by which windows do not advance, or leave out tokens between them.

        Raises:
            UsageError: It is less than one, or beyond the window.
        """
        if stride < 1:
            raise UsageError(f"--stride {stride}: the smallest is 1")
        if stride > self.length:
            raise UsageError(
                f"--stride {stride:,} is beyond the window of {self.length:,}, so tokens between "
                "two windows would be left out"
            )

    def stride(self, prefix_tokens: int) -> int:
        """Tokens that are scored at a time, behind at least as many: half of the room for text.

        Raises:
            UsageError: There is no room, or the middle is to be left out.
        """
        if self.middle:
            raise UsageError(
                "a token cannot be predicted from text behind it, so the middle cannot be left out",
                hint="use --truncation-side left",
            )
        if self.length < prefix_tokens + 2:
            raise UsageError(f"a window of {self.length} has no room for two tokens")
        return (self.length - prefix_tokens) // 2


@dataclass(frozen=True)
class Method(ABC):
    """Which cached keys a query sees, at which positions, and what the cache keeps.

    A method is a frozen dataclass whose fields are its parameters.
    """

    name: ClassVar[str]
    """What to type after ``--method``."""

    options: ClassVar[tuple[MethodOption, ...]] = ()
    """What the command line may set."""

    @classmethod
    @abstractmethod
    def build(cls, given: Mapping[str, Parameter], circumstances: Circumstances) -> Self:
        """The method with the parameters that the user gave and defaults for the others.

        Args:
            given: Values of some of :attr:`options`, by name.
            circumstances: What the defaults follow from.

        Raises:
            UsageError: The parameters contradict each other.
        """

    @classmethod
    def needs_length(cls, given: Mapping[str, Parameter]) -> bool:
        """Whether a default follows from the length of the text, which is then counted first."""
        return False

    @classmethod
    def needs_retrieval_heads(cls, given: Mapping[str, Parameter]) -> bool:
        """Whether it is only for models whose retrieval heads are known."""
        return False

    @property
    @abstractmethod
    def local_window(self) -> int | None:
        """Recent tokens that a query sees, itself included; None is all of them."""

    @property
    def exact_length(self) -> int | None:
        """Longest text, in tokens, that is read exactly as the stock model does; None is any."""
        return self.local_window

    @property
    def rope_change(self) -> RopeScaling | None:
        """A change of the model's rotary frequencies; None for none."""
        return None

    @property
    def truncation(self) -> Truncation | None:
        """What is read of a text that does not fit; None if all of it is."""
        return None

    @property
    def mixed(self) -> bool:
        """Whether some layers or heads see more than ``local_window``, and others do not."""
        return False

    @property
    def attended_beyond(self) -> int:
        """Tokens at most, chosen by what they say, that a query head sees beside all others."""
        return 0

    @property
    def pass_tokens(self) -> int | None:
        """Tokens at whose multiples a pass ends, since what is kept changes there; None for any."""
        return None

    @property
    def weighs_tokens(self) -> bool:
        """Whether what is kept depends on the likelihood of the tokens."""
        return False

    @abstractmethod
    def tracks(self, layer: LayerSpec) -> tuple[Track, ...]:
        """What the cache of this layer keeps between chunks."""

    @abstractmethod
    def segments(self, layer: LayerSpec) -> tuple[Segment, ...]:
        """What a query of this layer attends to, in one softmax; no key is in two segments."""

    def parameters(self) -> dict[str, Parameter]:
        """Every parameter that is set, by name; the class makes the same method of them."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}

    def may_search(self, layer: LayerSpec) -> bool:
        """Whether queries of this layer could search a store of all tokens."""
        return False

    def searches_clusters(self, layers: Iterable[LayerSpec]) -> bool:
        """Whether some layer searches a store whose keys have to be in clusters."""
        return any(segment.search.clusters for layer in layers for segment in self.segments(layer))

    def searching(self, given: Mapping[str, Parameter], layers: int) -> "Method | None":
        """This method with the store of all tokens searched; None for one that cannot.

        Args:
            given: Values of some of :attr:`options`, by name.
            layers: Number of layers of the model.

        Raises:
            UsageError: The parameters contradict each other.
        """
        return None


def number(given: Mapping[str, Parameter], name: str, default: int) -> int:
    """The number that the user gave for an option, or a default."""
    return int(given.get(name, default))


def narrower(window: int | None, other: int | None) -> int | None:
    """The smaller of two windows, where None is unlimited."""
    if window is None or other is None:
        return other if window is None else window
    return min(window, other)


def reaches_beyond(window: int, layer: LayerSpec) -> bool:
    """Whether a layer sees beyond a window: it has none of its own that is no wider.

    One that has was trained to see nothing beyond it, so a method leaves it as it is.
    """
    return layer.native_window is None or layer.native_window > window


def layer_bound(method: Method, layer: LayerSpec, chunk: int) -> int | None:
    """Largest number of tokens that a layer keeps while reading in chunks; None grows."""
    sizes = [track.retention.capacity(chunk) for track in method.tracks(layer)]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def layer_capacity(method: Method, layer: LayerSpec, chunk: int, growing: float) -> float:
    """Tokens for which a layer allocates memory, where one that keeps all has ``growing`` at most.

    A track of some key heads counts only as their share of the layer's. Besides finished blocks,
    there are the tokens in none, and copies of the blocks that were looked up.
    """
    looked_up = {
        segment.track: segment.lookup.blocks
        for segment in method.segments(layer)
        if segment.lookup is not None
    }
    total = 0.0
    for track in method.tracks(layer):
        retention = track.retention
        sizes = [retention.capacity(chunk)]
        if isinstance(retention, Blocks):
            copies = looked_up.get(track.name, 0) * retention.block
            sizes += [retention.unfinished.capacity(chunk), copies]
        allocated = sum(growing if size is None else min(size, growing) for size in sizes)
        total += allocated * _share(track.heads, layer)
    return total


def _share(heads: tuple[int, ...] | None, layer: LayerSpec) -> float:
    """The part of a layer's key heads that ``heads`` are; None is all of them."""
    return 1.0 if heads is None else len(heads) / layer.key_heads


def bound(method: Method, layers: Sequence[LayerSpec], chunk: int) -> int | None:
    """Largest number of tokens that any of the layers keeps; None grows with the stream."""
    bounds = [layer_bound(method, layer, chunk) for layer in layers]
    known = [size for size in bounds if size is not None]
    return max(known, default=0) if len(known) == len(bounds) else None


def starting_tokens(method: Method, layers: Iterable[LayerSpec]) -> int:
    """Number of tokens at the start of a stream that some layer keeps for ever."""
    tracks = (track for layer in layers if not layer.chunked for track in method.tracks(layer))
    kept = (track.retention.tokens for track in tracks if isinstance(track.retention, First))
    return max(kept, default=0)


def visible_spans(method: Method, layer: LayerSpec, position: int) -> list[tuple[int, int]]:
    """Half-open ranges of positions that some query at ``position`` attends to in a layer.

    The stream begins at position 0. What is searched in a store or looked up does not count, nor
    does what is kept only because of what it says.
    """
    return merged(span for span, _ in _seen(method, layer, position))


def visible_tokens(method: Method, layer: LayerSpec, position: int) -> float:
    """Keys that a query at ``position`` attends to in a layer, on the average of its heads.

    What is looked up, searched for, or kept for what it says does not count.
    """
    seen = _seen(method, layer, position)
    return sum((stop - start) * share for (start, stop), share in seen)


def _seen(
    method: Method, layer: LayerSpec, position: int
) -> Iterator[tuple[tuple[int, int], float]]:
    """What each segment shows a query, and to which part of the layer's heads."""
    place = layer.place(position)
    begin, position = position - place, place
    tracks = {track.name: track for track in method.tracks(layer)}
    for segment in method.segments(layer):
        if segment.topk is not None or segment.track not in tracks:
            continue
        nearest, farthest = position - segment.nearest + 1, 0
        if segment.farthest is not None:
            farthest = position - segment.farthest + 1
        track = tracks[segment.track]
        for start, stop in track.retention.kept(position):
            if max(start, farthest) < min(stop, nearest):
                span = (begin + max(start, farthest), begin + min(stop, nearest))
                yield span, _share(track.heads, layer)


def visible_in_any(
    method: Method, layers: Iterable[LayerSpec], position: int
) -> list[tuple[int, int]]:
    """The same for the layers of a model together: what at least one of them attends to."""
    alike = {
        (method.tracks(layer), method.segments(layer), layer.chunked): layer for layer in layers
    }
    return merged(
        span for layer in alike.values() for span in visible_spans(method, layer, position)
    )


def sees_everything(method: Method, layers: Iterable[LayerSpec]) -> bool:
    """Whether some layer shows a query every token, however long the text is."""
    position = 2**40
    return visible_in_any(method, layers, position) == [(0, position + 1)]


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Half-open ranges in ascending order, those that touch or overlap joined."""
    result: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(stop, result[-1][1]))
        else:
            result.append((start, stop))
    return result


def named_parameters(method: Method) -> dict[str, Any]:
    """Name and parameters, for reports and state files."""
    return {"name": method.name} | method.parameters()
