"""The one plan: how a text is read and what that takes, decided before the first token is read.

Everything here is a pure function of what is known of the model, of what the user asked for and of
the number of tokens, so a forecast and the reading that follows it cannot disagree. Imports neither
torch nor transformers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from lmi_cli.engine import ANSWER_TOKENS, CHUNK
from lmi_cli.engine.heads import key_heads_of
from lmi_cli.errors import UsageError
from lmi_cli.methods import Method, MethodChoice
from lmi_cli.methods.base import bound, layer_bound, named_parameters
from lmi_cli.models.known import KnownModel
from lmi_cli.models.placement import Precision
from lmi_cli.models.speeds import setting_of
from lmi_cli.text.prompts import Prompts

STREAM_SHARE = 4
"""A document beyond the trained length is read in a window of this part (one over it) of it.

A model is weakest at its largest distances: see ``docs/defaults.md``.
"""

QUESTION_SHARE = 16
"""A document that is read whole leaves this part (one over it) of the trained length to questions.

A reading serves questions that are not known yet, so that part is left even to a short question.
"""

ANSWER_FROM = ("auto", "passages", "memory", "window")
"""What the answers to a stream may come from."""

# A cache that grows is allocated half as large again as what it holds.
_GROWTH = 1.5


@dataclass(frozen=True, slots=True)
class MemoryChoice:
    """What is kept of a stream, and what its answers come from.

    Attributes:
        answer_from: ``passages`` (the best are read again), ``memory`` (the store is searched by
            each query head), ``window`` (neither), or ``auto``: what measured best of what is kept.
        index: Whether the keys of the retrieval heads are kept.
        store: Whether all keys and values are kept.
        int8: Whether the store keeps keys and values in eight bits.
        budget_bytes: Memory for index and store; beyond it they go to files. None has no limit.

    Raises:
        UsageError: ``answer_from`` is not known.
    """

    answer_from: str = "auto"
    index: bool = True
    store: bool = False
    int8: bool = False
    budget_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.answer_from not in ANSWER_FROM:
            raise UsageError(
                f"answer-from {self.answer_from!r} is not known",
                hint="one of " + ", ".join(ANSWER_FROM),
            )


NO_MEMORY = MemoryChoice("window", index=False)
"""Plain LM-Infinite: what lies between the first tokens and the window is not seen."""


@dataclass(frozen=True, slots=True)
class ReadingRequest:
    """What the user asked for, as far as it decides how a document is read.

    Attributes:
        prompts: The form of the prompts.
        method: How the model attends.
        memory: What is kept of a stream.
        answer_tokens: Longest answer.
        chunk: Tokens in one forward pass.
    """

    prompts: Prompts
    method: MethodChoice = field(default_factory=MethodChoice)
    memory: MemoryChoice = field(default_factory=MemoryChoice)
    answer_tokens: int = ANSWER_TOKENS
    chunk: int = CHUNK


@dataclass(frozen=True, slots=True)
class Plan:
    """How a text is read, and what that takes.

    Attributes:
        fits: Whether the text is read whole, exactly as the stock model would; otherwise it is read
            as a stream.
        prefix: Ids in front of the text.
        method: What reads.
        searching: The same method with the store searched, where there is to be a store.
        longest: Tokens of the whole sequence, answer included, where they are known. Models with
            one set of frequencies for short texts and one for long choose by it.
        chunk: Tokens in one forward pass.
        precision: In which numbers the model computes.
        index: Whether the keys of the retrieval heads are kept.
        needs_heads: Whether the retrieval heads have to be found first; the plan is then to be
            made again.
        bound_tokens: Largest number of tokens that any layer keeps; None grows with the text.
        cache_bytes: Keys and values of all layers, at most; None if the text is of unknown length
            and they grow with it.
        store_bytes: Index and store of the whole text; None if that is not known.
        weights_bytes: Weights.
        prefill_s: Seconds at the speed of the last such reading; None where there was none.
    """

    fits: bool
    prefix: tuple[int, ...]
    method: Method
    searching: Method | None
    longest: int | None
    chunk: int
    precision: Precision
    index: bool
    needs_heads: bool
    bound_tokens: int | None
    cache_bytes: int | None
    store_bytes: int | None
    weights_bytes: int
    prefill_s: float | None

    @property
    def form(self) -> str:
        """``fits`` or ``stream``, as reports have it."""
        return "fits" if self.fits else "stream"

    @property
    def reported_method(self) -> Method:
        """The method with all its parameters, those of the search included."""
        return self.searching or self.method


def document_limit(
    known: KnownModel, request: ReadingRequest, questions: Sequence[str] = ()
) -> int:
    """Tokens of the longest document that is read whole.

    Args:
        known: The model.
        request: What the user asked for.
        questions: Those that are known already; the longest must fit beside the document.
    """
    prompt, length = request.prompts.whole(), known.facts.trained_length
    longest = max((len(prompt.tail(question)) for question in questions), default=0)
    asking = max(longest + request.answer_tokens, length // QUESTION_SHARE)
    return length - len(prompt.prefix) - asking


def plan_reading(
    known: KnownModel,
    precision: Precision,
    request: ReadingRequest,
    tokens: int | None,
    questions: Sequence[str] = (),
) -> Plan:
    """How a document is read that questions will be asked about.

    Args:
        known: The model.
        precision: In which numbers it computes.
        request: What the user asked for.
        tokens: Of the document; None for a stream of unknown length.
        questions: Those that are known already.

    Raises:
        UsageError: Parameters contradict each other, or a question does not fit the window.
    """
    length = known.facts.trained_length
    limit = document_limit(known, request, questions)
    fits = tokens is not None and tokens <= limit
    prompt = request.prompts.whole() if fits else request.prompts.after_stream()
    window = length if fits else _stream_window(known)
    method = request.method.build(window, len(prompt.tokenizer.prefix))
    local = method.local_window
    for question in questions:
        needed = len(prompt.tail(question))
        if local is not None and needed > local:
            raise UsageError(
                f"a question of {needed:,} tokens does not fit the window of {local:,}",
                hint="shorten the question or raise --window",
            )
    bounded = bound(method, known.facts.layers, request.chunk) is not None
    memory, heads = request.memory, known.heads
    needs_heads = memory.index and not fits and bounded and heads is None
    index = memory.index and heads is not None and bool(heads.heads)
    no_heads = memory.index and heads is not None and not heads.heads
    wanted = memory.store or (memory.answer_from == "auto" and no_heads and bounded)
    searching = None
    if wanted and not fits and any(method.may_search(layer) for layer in known.facts.layers):
        searching = request.method.searching(method, len(known.facts.layers))
    return _plan(
        known,
        precision,
        use="read",
        fits=fits,
        prefix=prompt.prefix,
        method=method,
        searching=searching,
        tokens=tokens,
        longest=tokens + length - limit if fits and tokens is not None else None,
        chunk=request.chunk,
        index=index,
        needs_heads=needs_heads,
        int8=memory.int8,
    )


def plan_scoring(
    known: KnownModel,
    precision: Precision,
    choice: MethodChoice,
    tokens: int | None,
    chunk: int = CHUNK,
) -> Plan:
    """How a text is scored: the window is the trained length, as in the paper.

    Args:
        known: The model.
        precision: In which numbers it computes.
        choice: The method that the user asked for.
        tokens: Of the text; None where that is not known.
        chunk: Tokens in one forward pass.

    Raises:
        UsageError: Parameters contradict each other.
    """
    prefix = tuple(known.tokenizer.prefix)
    length = known.facts.trained_length
    return _plan(
        known,
        precision,
        use="score",
        fits=tokens is not None and len(prefix) + tokens <= length,
        prefix=prefix,
        method=choice.build(length, len(prefix)),
        searching=None,
        tokens=tokens,
        longest=None,
        chunk=chunk,
        index=False,
        needs_heads=False,
        int8=False,
    )


def plan_long_text(
    known: KnownModel, precision: Precision, choice: MethodChoice, chunk: int = CHUNK
) -> Plan:
    """How any text beyond the trained length is read, its own length and its questions apart.

    Args:
        known: The model; it needs no tokenizer.
        precision: In which numbers it computes.
        choice: The method that the user asked for.
        chunk: Tokens in one forward pass.

    Raises:
        UsageError: Parameters contradict each other.
    """
    return _plan(
        known,
        precision,
        use="read",
        fits=False,
        prefix=(),
        method=choice.build(_stream_window(known), 0),
        searching=None,
        tokens=None,
        longest=None,
        chunk=chunk,
        index=False,
        needs_heads=False,
        int8=False,
    )


def warnings(choice: MethodChoice, known: KnownModel) -> list[str]:
    """What is allowed but unlikely to be meant, one sentence each."""
    length = known.facts.trained_length
    window = choice.build(length, len(known.tokenizer.prefix)).local_window
    if window is not None and window > length:
        return [f"window {window:,} is beyond the trained length of {length:,} tokens"]
    return []


def _stream_window(known: KnownModel) -> int:
    """Default window, in tokens, of a document beyond the trained length."""
    return max(1, known.facts.trained_length // STREAM_SHARE)


def _plan(
    known: KnownModel,
    precision: Precision,
    *,
    use: str,
    fits: bool,
    prefix: tuple[int, ...],
    method: Method,
    searching: Method | None,
    tokens: int | None,
    longest: int | None,
    chunk: int,
    index: bool,
    needs_heads: bool,
    int8: bool,
) -> Plan:
    """A plan with the forecasts that follow from what has been decided."""
    facts = known.facts
    total = None if tokens is None else len(prefix) + tokens
    sizes: list[int | None] = []
    for layer in facts.layers:
        most = layer_bound(method, layer, chunk)
        held = None if total is None else round(_GROWTH * max(total, longest or 0))
        sizes.append(min((size for size in (most, held) if size is not None), default=None))
    kept = [size for size in sizes if size is not None]
    cache = sum(kept) if len(kept) == len(sizes) else None
    rate = known.speeds.get(setting_of(use, precision.name, named_parameters(method)))
    return Plan(
        fits=fits,
        prefix=prefix,
        method=method,
        searching=searching,
        longest=longest,
        chunk=chunk,
        precision=precision,
        index=index,
        needs_heads=needs_heads,
        bound_tokens=bound(method, facts.layers, chunk),
        cache_bytes=None if cache is None else cache * facts.layer_bytes_per_token(precision.dtype),
        store_bytes=_store_bytes(
            known, precision, tokens, method=searching, index=index, int8=int8, unknown=needs_heads
        ),
        weights_bytes=facts.weights_bytes(precision.dtype, precision.quantize),
        prefill_s=None if rate is None or total is None else total / rate,
    )


def _store_bytes(
    known: KnownModel,
    precision: Precision,
    tokens: int | None,
    *,
    method: Method | None,
    index: bool,
    int8: bool,
    unknown: bool,
) -> int | None:
    """Bytes of index and store of so many tokens; None where tokens or heads are not known."""
    if unknown or tokens is None:
        return None
    facts, per_token = known.facts, 0
    if index and known.heads is not None:
        kept = key_heads_of(known.heads.heads, facts.heads, facts.kv_heads)
        per_token += sum(map(len, kept.values())) * facts.head_dim * precision.itemsize
    if method is not None:
        layers = sum(method.may_search(layer) for layer in facts.layers)
        components = facts.head_dim if int8 else facts.head_dim * precision.itemsize
        scale = precision.itemsize if int8 else 0
        per_token += layers * 2 * facts.kv_heads * (components + scale)
    return tokens * per_token
