"""The plan: how a text is read, and how much memory and time that takes.

Every function here is pure. A plan follows from the facts known about the model, the request and
the number of tokens, so a forecast and the reading after it cannot disagree. Imports neither torch
nor transformers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lmi_cli.engine import ANSWER_TOKENS, CHUNK
from lmi_cli.errors import UsageError
from lmi_cli.methods import Method, MethodChoice
from lmi_cli.methods.base import Truncation, bound, sees_everything
from lmi_cli.models.known import KnownModel
from lmi_cli.models.placement import Precision
from lmi_cli.tasks.forecast import with_forecast
from lmi_cli.tasks.method_for import method_for
from lmi_cli.text.prompts import Prompt, Prompts

STREAM_SHARE = 4
"""The default window of a stream is the trained length divided by this.

A model is weakest at its largest distances: see ``docs/defaults.md``.
"""

INDEX_WINDOW = 1024
"""The largest default window, in tokens, of a stream that is read only for its index.

A wider one finds no more; see ``docs/memory.md``.
"""

QUESTION_SHARE = 16
"""A document that is read whole leaves the trained length divided by this to questions.

That much is left even if the known questions are short, since later ones need room as well.
"""

PARTWISE = ("xl3m", "chain")
"""Sources of answers for which a document is read anew, part by part, with each question."""

ANSWER_FROM = ("auto", "passages", "memory", "window", *PARTWISE)
"""Possible sources of answers about a stream."""

ORDERS = ("document", "best-last", "ends")
"""Orders of the passages that are read again; see :mod:`lmi_cli.tasks.rereading`."""

INDEXES = ("full", "heads")
"""Possible indexes of a stream: with embeddings, or of the keys of retrieval heads alone."""

RANKS = ("careful", "fast")
"""Ways of ranking: with or without the likelihood of the question. The first is the default."""


@dataclass(frozen=True, slots=True)
class MemoryChoice:
    """What is kept of a stream, and the source of answers.

    Attributes:
        answer_from: ``passages`` (the best are read again), ``memory`` (each query head searches
            the store), ``window`` (neither), ``xl3m`` (the segments behind which the model foresees
            the question best), ``chain`` (notes that it takes on each part), or ``auto``: the best
            of the first three that is possible.
        index: Whether an index is kept, by which passages are found.
        embeddings: Whether the index has embeddings beside the keys of retrieval heads. Without
            them nothing behind the deepest of these heads is computed, if nothing else needs it.
        store: Whether all keys and values are kept.
        int8: Whether the store keeps keys and values in eight bits.
        budget_bytes: RAM for index and store; the rest goes to files. None means no limit.

    Raises:
        UsageError: ``answer_from`` has an unknown value.
    """

    answer_from: str = "auto"
    index: bool = True
    embeddings: bool = True
    store: bool = False
    int8: bool = False
    budget_bytes: int | None = None

    @property
    def only_index(self) -> bool:
        """Whether a stream is read for nothing but its index."""
        return self.index and not self.store and self.answer_from in ("auto", "passages")

    @property
    def partwise(self) -> bool:
        """Whether a long document is only taken down, and read when a question is asked."""
        return self.answer_from in PARTWISE

    def require_no_method(self, choice: MethodChoice) -> None:
        """Refuse a method where parts of a document are read as the stock model reads them.

        Raises:
            UsageError: A method, or an option of one, was given.
        """
        if self.partwise and choice != MethodChoice():
            raise UsageError(
                f"--answer-from {self.answer_from} reads parts that fit the trained length, so it "
                "cannot be combined with --method and its options"
            )

    def __post_init__(self) -> None:
        if self.answer_from not in ANSWER_FROM:
            raise UsageError(
                f"unknown value {self.answer_from!r} for --answer-from",
                hint="one of " + ", ".join(ANSWER_FROM),
            )


NO_MEMORY = MemoryChoice("window", index=False)
"""Plain LM-Infinite: tokens between the sinks and the window are not seen."""


@dataclass(frozen=True, slots=True)
class ReadingRequest:
    """The options that decide how a document is read.

    ``answer_tokens`` is the longest answer, and ``chunk`` the size of a forward pass, in tokens.
    ``evidence`` asks for the retrieval heads even if the document is read whole.
    """

    prompts: Prompts
    method: MethodChoice = field(default_factory=MethodChoice)
    memory: MemoryChoice = field(default_factory=MemoryChoice)
    answer_tokens: int = ANSWER_TOKENS
    chunk: int = CHUNK
    evidence: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """How a text is read, and how much memory and time that takes.

    Attributes:
        fits: Whether what is read of the text is read as the stock model would, in one prompt;
            otherwise it is read as a stream.
        excerpt: How many of the first and of the last tokens of the text are read; None for all.
        prefix: Ids before the text.
        method: The method that reads the text.
        chunk: Tokens in one forward pass.
        precision: Dtype and quantisation of the model.
        longest: Tokens of the whole sequence, answer included, if known. Models with one set of
            rotary frequencies for short texts and another for long ones choose by it.
        index: Whether the keys of the retrieval heads are kept.
        embeddings: Whether mean hidden states are kept, from which passages get embeddings.
        only_index: Whether a stream is read for nothing but its index.
        words: Whether passages are ranked by words alone, as the model has no attention layers.
        only_text: Whether the model reads nothing before a question is asked.
        depth: Layers that are run while reading; None for all.
        needs_heads: Whether the retrieval heads must be found first, and the plan made again.
        searching: The method as it searches the store; None if there is no store.
        int8: Whether the store keeps keys and values in eight bits.
        bound_tokens: Largest number of tokens that any layer keeps; None if it grows with the text.
        cache_bytes: Upper bound of the keys and values of all layers; None if they grow with a
            text of unknown length.
        store_bytes: Size of index and store for the whole text; None if not known.
        weights_bytes: Size of the weights.
        prefill_s: Seconds at the speed of the last reading with the same settings; None if there
            was none.
    """

    fits: bool
    prefix: tuple[int, ...]
    method: Method
    chunk: int
    precision: Precision
    longest: int | None = None
    excerpt: tuple[int, int] | None = None
    index: bool = False
    embeddings: bool = False
    only_index: bool = False
    words: bool = False
    only_text: bool = False
    depth: int | None = None
    needs_heads: bool = False
    searching: Method | None = None
    int8: bool = False
    bound_tokens: int | None = None
    cache_bytes: int | None = None
    store_bytes: int | None = None
    weights_bytes: int = 0
    prefill_s: float | None = None

    @property
    def kept(self) -> tuple[str, ...]:
        """``index``, ``store``, both or neither, as in ``--keep``."""
        indexed = self.index or self.embeddings or self.words
        wanted = {"index": indexed, "store": self.searching is not None}
        return tuple(name for name, kept in wanted.items() if kept)

    @property
    def index_name(self) -> str | None:
        """``full`` or ``heads``, as in ``--index``, or ``words``; None without an index."""
        if self.embeddings or self.index:
            return "full" if self.embeddings else "heads"
        return "words" if self.words else None

    @property
    def form(self) -> str:
        """``fits``, ``truncated``, ``parts`` or ``stream``, as in reports."""
        if self.excerpt is not None:
            return "truncated"
        if self.only_text:
            return "parts"
        return "fits" if self.fits else "stream"

    def read_tokens(self, tokens: int) -> int:
        """How many of the ``tokens`` of the text are read."""
        return tokens if self.excerpt is None else sum(self.excerpt)

    @property
    def reported_method(self) -> Method:
        """The method with all its parameters, including those of the search."""
        return self.searching or self.method


def document_limit(
    known: KnownModel, request: ReadingRequest, questions: Sequence[str] = ()
) -> int:
    """Tokens of the longest document that is read whole, with room for the longest question."""
    prompt = request.prompts.whole()
    length = request.method.sequence_length(known.facts.trained_length)
    longest = max((len(prompt.tail(question)) for question in questions), default=0)
    asking = max(longest + request.answer_tokens, length // QUESTION_SHARE)
    return length - len(prompt.prefix) - asking


def require_fit(method: Method, prompt: Prompt, questions: Iterable[str]) -> None:
    """Refuse questions that are longer than the window.

    Raises:
        UsageError: One of them is.
    """
    window = method.local_window
    for needed in (len(prompt.tail(question)) for question in questions):
        if window is not None and needed > window:
            raise UsageError(
                f"a question of {needed:,} tokens does not fit the window of {window:,}",
                hint="shorten the question or raise --window",
            )


def plan_reading(
    known: KnownModel, request: ReadingRequest, tokens: int | None, questions: Sequence[str] = ()
) -> Plan:
    """Plan the reading of a document, for the questions that are known already.

    ``tokens`` is the length of the document; None for a stream of unknown length.

    Raises:
        ModelError: See :func:`method_for`.
        UsageError: Parameters contradict each other, a question does not fit the window, or the
            method cannot search the store that is to be kept.
    """
    length = known.facts.trained_length
    limit = document_limit(known, request, questions)
    fits, excerpt = tokens is not None and tokens <= limit, None
    if not fits:
        request.memory.require_no_method(request.method)
    truncation = request.method.truncation(length)
    if truncation is not None and tokens is not None and not fits:
        _require_truncated(request, limit, truncation)
        fits, excerpt = True, truncation.ends(limit)
    read = min(tokens or 0, limit)
    prompt = request.prompts.whole() if fits else request.prompts.after_stream()
    longest = max((len(prompt.tail(question)) for question in questions), default=0)
    only_text = request.memory.partwise and not fits
    window = length if fits or only_text else _stream_window(known, request.memory, longest)
    before = len(prompt.tokenizer.prefix)
    # As much is left to questions as if none were known: a state file will be asked others.
    total = None if tokens is None else before + tokens + length // QUESTION_SHARE
    method = method_for(known, request.method, window, before, total)
    require_fit(method, prompt, questions)
    layers, memory, heads = known.facts.layers, request.memory, known.heads
    bounded = bound(method, layers, request.chunk) is not None
    wants_index = memory.index and excerpt is None
    indexed = wants_index and heads is not None and bool(heads.heads)
    worded = wants_index and not layers
    embedded = wants_index and not worded and (memory.embeddings or not indexed)
    searching = None
    if memory.store and not (fits and sees_everything(method, layers)):
        searching = request.method.searching(method, len(layers))
        if searching is None:
            other = ", or read with --method lm-infinite" if layers else ""
            raise UsageError(
                f"{method.name} searches no store, so none can be kept",
                hint=f"leave --keep and --answer-from out{other}",
            )
        if not any(map(method.may_search, layers)):
            searching = None
    depth, hidden = None, not fits and not sees_everything(method, layers)
    only_index = memory.only_index and not fits
    # A text that is only searched by words need not be read for questions that are all known.
    only_text = only_text or (worded and only_index and bool(questions))
    shallow = indexed and only_index and bounded and not embedded and not method.weighs_tokens
    if heads is not None and shallow:
        depth = max(head.layer for head in heads.heads) + 1
    plan = Plan(
        fits=fits,
        prefix=prompt.prefix,
        method=method,
        chunk=request.chunk,
        precision=known.precision,
        longest=read + request.method.sequence_length(length) - limit if fits else None,
        excerpt=excerpt,
        index=indexed,
        embeddings=embedded,
        only_index=only_index,
        words=worded,
        only_text=only_text,
        depth=depth,
        needs_heads=embedded and heads is None and (request.evidence or hidden),
        searching=searching,
        int8=memory.int8,
    )
    return with_forecast(plan, known, None if tokens is None else plan.read_tokens(tokens), "read")


def _require_truncated(request: ReadingRequest, limit: int, truncation: Truncation) -> None:
    """Refuse what cannot be done with a part of a text.

    Raises:
        UsageError: There is no room for it, or an index or a store of all of the text is needed.
    """
    name, source = request.method.name, request.memory.answer_from
    if limit < 1:
        raise UsageError(
            f"{truncation.length:,} tokens leave no room for the text beside question and answer",
            hint="raise --window or lower -n",
        )
    if request.memory.store or source == "passages" or request.evidence:
        raise UsageError(
            f"{name} reads only a part of a long text, so it has neither index nor store",
            hint="read with --method lm-infinite to search all of it",
        )


def plan_scoring(
    known: KnownModel, choice: MethodChoice, tokens: int | None, chunk: int = CHUNK
) -> Plan:
    """Plan the scoring of a text, with the trained length as window, as in the paper.

    ``tokens`` is the length of the text; None if it is not known.

    Raises:
        ModelError: See :func:`method_for`.
        UsageError: Parameters contradict each other.
    """
    prefix = tuple(known.tokenizer.prefix)
    length = known.facts.trained_length
    total = None if tokens is None else len(prefix) + tokens
    fits = total is not None and total <= choice.sequence_length(length)
    method = method_for(known, choice, length, len(prefix), total)
    if method.truncation is not None:
        method.truncation.stride(len(prefix))  # which refuses what cannot be scored
    plan = Plan(fits, prefix, method, chunk, known.precision)
    return with_forecast(plan, known, tokens, "score")


def plan_long_text(known: KnownModel, choice: MethodChoice, chunk: int = CHUNK) -> Plan:
    """Plan the reading of any text beyond the trained length; the model needs no tokenizer.

    Raises:
        ModelError: See :func:`method_for`.
        UsageError: Parameters contradict each other.
    """
    window = _stream_window(known, MemoryChoice())
    method = method_for(known, choice, window, 0)
    plan = Plan(False, (), method, chunk, known.precision)
    return with_forecast(plan, known, None, "read")


def warnings(choice: MethodChoice, known: KnownModel) -> list[str]:
    """Warnings about choices that are allowed but unlikely to be intended, a sentence each."""
    length = known.facts.trained_length
    window = choice.build(length, len(known.tokenizer.prefix)).exact_length
    if window is not None and window > length:
        return [f"window {window:,} is beyond the trained length of {length:,} tokens"]
    return []


def _stream_window(known: KnownModel, memory: MemoryChoice, longest: int = 0) -> int:
    """Default window, in tokens, of a document beyond the trained length.

    ``longest`` are the tokens of the longest question that is known.
    """
    window = max(1, known.facts.trained_length // STREAM_SHARE)
    return min(window, max(INDEX_WINDOW, longest)) if memory.only_index else window
