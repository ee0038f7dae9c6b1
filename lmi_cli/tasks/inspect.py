"""What a reading would take in and what it would need, without a model's weights."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.engine.heads import RetrievalHeads, key_heads_of
from lmi_cli.models.facts import DTYPE_BYTES, ModelFacts
from lmi_cli.models.speeds import setting_of
from lmi_cli.sources.blocks import Corpus, Skipped
from lmi_cli.tasks.events import Progress
from lmi_cli.tasks.methodchoice import STREAM_SHARE, MethodChoice
from lmi_cli.tasks.report import SourceReport, source_reports
from lmi_cli.text.encoder import StreamEncoder
from lmi_cli.text.provenance import SourceCounter
from lmi_cli.text.stream import tokenize
from lmi_cli.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Forecast:
    """What reading a stream of so many tokens would need.

    Attributes:
        form: ``fits`` the trained length, or is read as a ``stream``.
        method: Name of the method.
        parameters: Its parameters, in tokens.
        bound_tokens: Largest number of tokens any layer keeps.
        cache_bytes: Keys and values of all layers, at most.
        store_bytes: Index of the whole stream; None where the heads that it takes are not known.
        weights_bytes: Weights.
        dtype: Of both.
        prefill_s: Seconds at the speed of the last such reading; None where there was none.
    """

    form: str
    method: str
    parameters: dict[str, int]
    bound_tokens: int
    cache_bytes: int
    store_bytes: int | None
    weights_bytes: int
    dtype: str
    prefill_s: float | None


@dataclass(frozen=True, slots=True)
class InspectReport:
    """What would be read.

    Attributes:
        sources: The documents, with the tokens of each.
        skipped: What would not be read, and why.
        tokens: Of the stream, lines that name the sources included.
        chars: The same in characters.
        engine: Library that tokenised at the end.
        notes: What the user should know, one sentence each.
        seconds: Time for reading and tokenising.
    """

    sources: list[SourceReport]
    skipped: list[Skipped]
    tokens: int
    chars: int
    engine: str
    notes: list[str]
    seconds: float


def inspect(tokenizer: Tokenizer, corpus: Corpus) -> Iterator[Progress | InspectReport]:
    """Read and tokenise ``corpus`` in constant memory; the report comes last.

    Raises:
        NoInputError: There is no text.
    """
    counter = SourceCounter()
    encoder = StreamEncoder(tokenizer)
    tokens = chars = 0
    started = time.monotonic()
    for block in tokenize(corpus.blocks, tokenizer, counter, encoder):
        counter.count(block.starts)
        tokens += len(block.ids)
        chars += len(block.text)
        yield Progress(tokens)
    yield InspectReport(
        sources=source_reports(corpus.sources, counter.tokens),
        skipped=list(corpus.skipped),
        tokens=tokens,
        chars=chars,
        engine=encoder.engine,
        notes=encoder.notes,
        seconds=time.monotonic() - started,
    )


def forecast(
    facts: ModelFacts,
    choice: MethodChoice,
    tokens: int,
    *,
    chunk: int,
    dtype: str,
    quantize: str = "none",
    answer: int | None,
    looking: RetrievalHeads | None = None,
    speed: Callable[[str], float | None] = lambda setting: None,
) -> Forecast:
    """What reading would need.

    Args:
        facts: The model.
        choice: The method the user asked for.
        tokens: Length of the stream.
        chunk: Tokens in one forward pass.
        dtype: A key of ``DTYPE_BYTES``.
        quantize: ``int8`` where weights are kept in eight bits.
        answer: Longest answer, in tokens, that must fit too; None for ``perplexity``, whose default
            window is the trained length.
        looking: The retrieval heads of the model, where they are known.
        speed: Tokens a second by setting; see :mod:`lmi_cli.models.speeds`.
    """
    window = facts.trained_length
    fits = tokens + (answer or 0) <= window
    if not fits and answer is not None:
        window = max(1, window // STREAM_SHARE)
    method = choice.build(window, prefix=0)
    kept = []
    for layer, native in enumerate(facts.native_windows):
        bound = method.bound(chunk, LayerSpec(layer, None, native))
        # A growing cache holds the stream; how much room it keeps ahead is not foretold.
        kept.append(tokens if bound is None else bound)
    store: int | None = 0
    if not fits and answer is not None:
        store = None if looking is None else tokens * _index_bytes_per_token(facts, looking, dtype)
    limit = method.parameters().get("window")
    rate = None
    if limit is not None:
        precision = dtype if quantize == "none" else f"{dtype}+{quantize}"
        rate = speed(setting_of("score" if answer is None else "read", precision, limit))
    return Forecast(
        form="fits" if fits else "stream",
        method=method.name,
        parameters=method.parameters(),
        bound_tokens=max(kept),
        cache_bytes=sum(kept) * facts.layer_bytes_per_token(dtype),
        store_bytes=store,
        weights_bytes=facts.weights_bytes(dtype, quantize),
        dtype=dtype,
        prefill_s=None if rate is None else tokens / rate,
    )


def _index_bytes_per_token(facts: ModelFacts, looking: RetrievalHeads, dtype: str) -> int:
    kept = key_heads_of(looking.heads, facts.heads, facts.kv_heads)
    return sum(map(len, kept.values())) * facts.head_dim * DTYPE_BYTES[dtype]
