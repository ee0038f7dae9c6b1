"""The plan: how a text is read, and what that takes in memory and time.

Every function here is pure. A plan follows from what is known of the model, from the request and
from the number of tokens, so that a forecast and the reading after it cannot disagree. Imports
neither torch nor transformers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

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

It is left even where the known questions are short, since a reading serves later ones as well.
"""

ANSWER_FROM = ("auto", "passages", "memory", "window")
"""What the answers to a stream may come from."""

# A growing cache is allocated half as large again as what it holds.
_GROWTH = 1.5


@dataclass(frozen=True, slots=True)
class MemoryChoice:
    """What is kept of a stream, and what answers come from.

    Attributes:
        answer_from: ``passages`` (the best are read again), ``memory`` (each query head searches
            the store), ``window`` (neither), or ``auto``: the best of these that is possible.
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
"""Plain LM-Infinite: tokens between the sinks and the window are not seen."""


@dataclass(frozen=True, slots=True)
class ReadingRequest:
    """The part of what the user asked for that decides how a document is read.

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
        chunk: Tokens in one forward pass.
        precision: Numbers in which the model computes.
        longest: Tokens of the whole sequence, answer included, where they are known. Models with
            one set of frequencies for short texts and one for long choose by it.
        index: Whether the keys of the retrieval heads are kept.
        needs_heads: Whether the retrieval heads must be found first, and the plan made again.
        searching: The method with the store searched, where all keys and values are kept.
        int8: Whether the store keeps them in eight bits.
        bound_tokens: Largest number of tokens that any layer keeps; None grows with the text.
        cache_bytes: Keys and values of all layers, at most; None if the text is of unknown length
            and they grow with it.
        store_bytes: Index and store of the whole text; None if that is not known.
        weights_bytes: Weights.
        prefill_s: Seconds at the speed of the last such reading, if there was one.
    """

    fits: bool
    prefix: tuple[int, ...]
    method: Method
    chunk: int
    precision: Precision
    longest: int | None = None
    index: bool = False
    needs_heads: bool = False
    searching: Method | None = None
    int8: bool = False
    bound_tokens: int | None = None
    cache_bytes: int | None = None
    store_bytes: int | None = None
    weights_bytes: int = 0
    prefill_s: float | None = None

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
        questions: Questions that are known already; the longest must fit beside the document.
    """
    prompt, length = request.prompts.whole(), known.facts.trained_length
    longest = max((len(prompt.tail(question)) for question in questions), default=0)
    asking = max(longest + request.answer_tokens, length // QUESTION_SHARE)
    return length - len(prompt.prefix) - asking


def plan_reading(
    known: KnownModel,
    request: ReadingRequest,
    tokens: int | None,
    questions: Sequence[str] = (),
) -> Plan:
    """Plan the reading of a document for questions.

    Args:
        known: The model.
        request: What the user asked for.
        tokens: Of the document; None for a stream of unknown length.
        questions: Questions that are known already.

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
    plan = Plan(
        fits=fits,
        prefix=prompt.prefix,
        method=method,
        chunk=request.chunk,
        precision=known.precision,
        longest=tokens + length - limit if fits and tokens is not None else None,
        index=index,
        needs_heads=needs_heads,
        searching=searching,
        int8=memory.int8,
    )
    return _with_forecast(plan, known, tokens, "read")


def plan_scoring(
    known: KnownModel,
    choice: MethodChoice,
    tokens: int | None,
    chunk: int = CHUNK,
) -> Plan:
    """Plan the scoring of a text, with the trained length as window, as in the paper.

    Args:
        known: The model.
        choice: The method that the user asked for.
        tokens: Length of the text; None if it is not known.
        chunk: Tokens in one forward pass.

    Raises:
        UsageError: Parameters contradict each other.
    """
    prefix = tuple(known.tokenizer.prefix)
    length = known.facts.trained_length
    fits = tokens is not None and len(prefix) + tokens <= length
    plan = Plan(fits, prefix, choice.build(length, len(prefix)), chunk, known.precision)
    return _with_forecast(plan, known, tokens, "score")


def plan_long_text(known: KnownModel, choice: MethodChoice, chunk: int = CHUNK) -> Plan:
    """Plan the reading of any text beyond the trained length.

    Args:
        known: The model; it needs no tokenizer.
        choice: The method that the user asked for.
        chunk: Tokens in one forward pass.

    Raises:
        UsageError: Parameters contradict each other.
    """
    plan = Plan(False, (), choice.build(_stream_window(known), 0), chunk, known.precision)
    return _with_forecast(plan, known, None, "read")


def warnings(choice: MethodChoice, known: KnownModel) -> list[str]:
    """Warnings about choices that are allowed but unlikely to be meant, one sentence each."""
    length = known.facts.trained_length
    window = choice.build(length, len(known.tokenizer.prefix)).local_window
    if window is not None and window > length:
        return [f"window {window:,} is beyond the trained length of {length:,} tokens"]
    return []


def _stream_window(known: KnownModel) -> int:
    """Default window, in tokens, of a document beyond the trained length."""
    return max(1, known.facts.trained_length // STREAM_SHARE)


def _with_forecast(plan: Plan, known: KnownModel, tokens: int | None, use: str) -> Plan:
    """Complete a plan with the memory and the time that follow from it."""
    facts = known.facts
    total = None if tokens is None else len(plan.prefix) + tokens
    held = None if total is None else round(_GROWTH * max(total, plan.longest or 0))
    kept = 0
    for layer in facts.layers:
        sizes = (layer_bound(plan.method, layer, plan.chunk), held)
        size = min((size for size in sizes if size is not None), default=None)
        if size is None:
            break
        kept += size
    else:
        plan = replace(plan, cache_bytes=kept * facts.layer_bytes_per_token(plan.precision.dtype))
    setting = setting_of(use, plan.precision.name, named_parameters(plan.method))
    rate = known.speeds.get(setting)
    unknown = tokens is None or plan.needs_heads
    return replace(
        plan,
        bound_tokens=bound(plan.method, facts.layers, plan.chunk),
        store_bytes=None if unknown else (tokens or 0) * _kept_bytes_per_token(plan, known),
        weights_bytes=facts.weights_bytes(plan.precision.dtype, plan.precision.quantize),
        prefill_s=None if rate is None or total is None else total / rate,
    )


def _kept_bytes_per_token(plan: Plan, known: KnownModel) -> int:
    """Bytes of index and store for each token of a text."""
    facts, item = known.facts, plan.precision.itemsize
    kept = 0
    if plan.index and known.heads is not None:
        by_layer = key_heads_of(known.heads.heads, facts.heads, facts.kv_heads)
        kept += sum(map(len, by_layer.values())) * facts.head_dim * item
    if plan.searching is not None:
        layers = sum(map(plan.method.may_search, facts.layers))
        number = facts.head_dim + item if plan.int8 else facts.head_dim * item
        kept += layers * 2 * facts.kv_heads * number
    return kept
