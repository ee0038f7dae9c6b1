"""The one reader: a document is read once, and any number of questions can follow.

A first reading, one that continues after an interruption and one that appends to an earlier reading
are the same loop. Its result is a :class:`Reading`, which is all that asking and state files need.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from lmi_cli import memory
from lmi_cli.cache.means import StateMeans
from lmi_cli.cache.pool import BlockPool
from lmi_cli.cache.state import StreamState
from lmi_cli.cache.store import TokenStore
from lmi_cli.engine.engine import Engine, Ids
from lmi_cli.engine.heads import RetrievalHeads
from lmi_cli.engine.retrieval import key_index
from lmi_cli.errors import StateFileError, UsageError
from lmi_cli.methods import MethodChoice
from lmi_cli.methods.base import starting_tokens
from lmi_cli.methods.lm_infinite import LEAST_SINKS
from lmi_cli.models import speeds
from lmi_cli.models.load import Loaded
from lmi_cli.sources.blocks import Skipped, Source
from lmi_cli.tasks.calibrate import find_heads
from lmi_cli.tasks.document import Document
from lmi_cli.tasks.events import Note, Progress
from lmi_cli.tasks.forecast import speed_setting
from lmi_cli.tasks.plan import (
    Plan,
    ReadingRequest,
    document_limit,
    plan_reading,
    warnings,
)
from lmi_cli.tasks.report import ReadingReport, Timing, source_reports
from lmi_cli.text.stream import TokenBlock, TokenStream


@dataclass(frozen=True, slots=True)
class Reading:
    """A document that has been read.

    Attributes:
        document: Its tokens and its text, with their places in the sources.
        choice: The method that the user asked for.
        plan: How it was read.
        state: The state after its last token. Questions are asked on a fork of it.
        last: Hidden state of its last token, ``[hidden]``.
        stores: ``index``, ``store``, both or neither.
        means: Mean hidden states, from which passages get embeddings.
        heads: The retrieval heads whose keys are in the index.
        sources: The sources that were read.
        skipped: The sources that were not read, with reasons.
        fresh_tokens: Number of tokens that this process has read.
        prefill_s: Seconds that this process has taken to read them.
    """

    document: Document
    choice: MethodChoice
    plan: Plan
    state: StreamState
    last: Tensor
    stores: Mapping[str, TokenStore]
    means: StateMeans | None
    heads: RetrievalHeads | None
    sources: list[Source]
    skipped: list[Skipped]
    fresh_tokens: int = 0
    prefill_s: float = field(default=0.0, compare=False)

    def fork(self) -> "Reading":
        """An independent copy that can be continued; it shares the full blocks of the stores."""
        stores = {name: store.fork(store.pool.fresh()) for name, store in self.stores.items()}
        state = self.state.fork()
        state.recording = tuple(stores.values())
        state.means = means = None if self.means is None else self.means.fork()
        return replace(self, state=state, stores=stores, means=means, fresh_tokens=0, prefill_s=0.0)

    @property
    def unread(self) -> int:
        """Tokens of the document that are not read, since it does not fit."""
        return self.document.tokens - self.plan.read_tokens(self.document.tokens)

    def timing(self) -> Timing:
        """Time and speed of the reading done by this process."""
        timing = Timing()
        if self.fresh_tokens:
            timing.add_prefill(self.fresh_tokens, self.prefill_s)
        return timing

    def report(self) -> ReadingReport:
        """What was read and how."""
        method = self.plan.reported_method
        index, store = self.stores.get("index"), self.stores.get("store")
        return ReadingReport(
            method=method.name,
            parameters=method.parameters(),
            bound_tokens=self.plan.bound_tokens,
            form=self.plan.form,
            document_tokens=self.document.tokens,
            unread_tokens=self.unread,
            cache_bytes=self.state.nbytes,
            words=self.plan.words,
            sources=source_reports(self.sources, self.document.source_tokens),
            skipped=list(self.skipped),
            stored_tokens=0 if store is None else store.tokens,
            indexed_tokens=0 if index is None else index.tokens,
            store_bytes=sum(store.nbytes for store in self.stores.values())
            + (0 if self.means is None else self.means.nbytes),
        )


def engine_of(model: Loaded, plan: Plan) -> Engine:
    """The engine that reads by a plan."""
    return Engine(model.lm, plan.method, plan.chunk, longest=plan.longest, depth=plan.depth)


def require_memory(model: Loaded, plan: Plan) -> None:
    """Refuse a plan whose keys and values would not fit, before anything is read.

    Raises:
        ResourceError: They do not fit the memory of the one device that all layers are on.
    """
    free, facts = model.lm.free_bytes(), model.known.facts
    if free is None or plan.cache_bytes is None:
        return
    what = f"the state of {plan.method.name}"
    if per_token := len(facts.layers) * facts.layer_bytes_per_token(plan.precision.dtype):
        kept = max(1, plan.cache_bytes // per_token)
        what = f"the cache of {plan.method.name}, with {kept:,} tokens per layer,"
    memory.require(
        plan.cache_bytes, what, "a smaller --window or --dtype bfloat16 takes less", free=free
    )


def remember_speed(model: Loaded, plan: Plan, use: str, tokens: int, seconds: float) -> None:
    """Remember the speed of a reading (``use`` is ``read`` or ``score``) for later forecasts.

    If the cache grows with the text, the speed depends on the length and is not remembered.
    """
    if plan.bound_tokens is not None:
        speeds.remember(model.files, speed_setting(use, plan), tokens, seconds)


def read(
    model: Loaded,
    stream: TokenStream,
    request: ReadingRequest,
    questions: Sequence[str] = (),
    *,
    earlier: Reading | None = None,
    append: bool = False,
    plan: Plan | None = None,
    after_chunk: Callable[[Reading], None] = lambda reading: None,
) -> Generator[Progress | Note, None, Reading]:
    """Read a whole document.

    Args:
        model: The model.
        stream: The document; with ``append``, the text that follows it.
        request: The options.
        questions: Questions that will be asked; the longest must fit beside the document.
        earlier: A reading to continue, which must not be used again. Without ``append``, it is a
            reading of the beginning of the same document, and their tokens are compared.
        append: The stream follows the document of ``earlier``. If the whole no longer fits the
            trained length, it is read again as a stream, from its tokens.
        plan: How to read; None makes a plan.
        after_chunk: Called after each forward pass with the reading so far.

    Raises:
        NoInputError: There is no text.
        ResourceError: There is not enough memory.
        StateFileError: ``earlier`` is a reading of another document, or was read in another way.
        UsageError: The request contradicts itself, or a question does not fit the window.
    """
    document = Document()
    expected: Ids = np.empty(0, dtype=np.int32)
    corpus, known = stream.corpus, model.known
    if earlier is not None:
        known = replace(known, heads=earlier.heads or known.heads)
        expected = earlier.document.ids
        if append:
            request, document = _with_fixed(request, earlier), earlier.document
            if request.method.truncation(known.facts.trained_length) is not None:
                raise UsageError(
                    f"nothing can be appended to what {request.method.name} has read",
                    hint="read all sources in one lmi read command",
                )
            # The corpus numbers its sources in order, so the earlier ones are put in front.
            corpus.sources[:0] = earlier.sources
            corpus.skipped[:0] = earlier.skipped
    blocks = stream.blocks(document.provenance, offset=document.provenance.chars)
    ahead: list[TokenBlock] = []
    if plan is None:
        limit = document_limit(known, request, questions)
        if earlier is not None and not earlier.plan.fits:
            limit = -1  # a stream remains a stream
        tokens, counts = document.tokens, request.method.needs_length
        for block in blocks:
            ahead.append(block)
            tokens += len(block.ids)
            if tokens > limit and not counts:
                break
        length = tokens if tokens <= limit or counts else None
        plan = plan_reading(known, request, length, questions)
        if plan.needs_heads:
            known = replace(known, heads=(yield from find_heads(model, request.chunk)))
            plan = plan_reading(known, request, length, questions)
    require_memory(model, plan)
    for warning in warnings(request.method, known):
        yield Note(warning)

    engine = engine_of(model, plan)
    difference = None if earlier is None else _difference(model, earlier, plan)
    if earlier is not None and difference is None:
        plan = replace(plan, searching=earlier.plan.searching)  # as its store was made for
        state, stores, means = earlier.state, earlier.stores, earlier.means
        heads, last = earlier.heads, earlier.last
    elif earlier is not None and not append:
        raise StateFileError(f"it was read with {difference}")
    else:
        pool = BlockPool(request.memory.budget_bytes)
        state, heads = engine.start(pool=pool), known.heads if plan.index else None
        stores = new_stores(model, plan, heads, pool)
        state.recording = tuple(stores.values())
        state.means = means = new_means(plan)
        last = torch.empty(0)
    done = max(0, state.tokens - len(plan.prefix))

    def ids() -> Iterator[Ids]:
        if state.tokens == 0 and plan.prefix:
            yield np.array(plan.prefix, dtype=np.int32)
        if plan.excerpt is not None:
            for block in chain(ahead, blocks):
                document.add(block)
            first, last = plan.excerpt
            yield document.ids[:first]
            yield document.ids[document.tokens - last :]
            return
        if done < document.tokens:
            yield document.ids[done:]
        for block in chain(ahead, blocks):
            at = document.tokens
            read_before = min(len(block.ids), max(0, done - at))
            if not np.array_equal(expected[at : at + read_before], block.ids[:read_before]):
                raise StateFileError("the sources differ from those read so far")
            document.add(block)
            yield block.ids[read_before:]

    first_tokens = document.tokens
    buffered = first_tokens + sum(len(block.ids) for block in ahead)
    whole = plan.read_tokens(buffered) if plan.fits else None
    before, started = state.tokens, time.monotonic()

    def reading() -> Reading:
        return Reading(
            document=document,
            choice=request.method,
            plan=plan,
            state=state,
            last=last,
            stores=stores,
            means=means,
            heads=heads,
            sources=corpus.sources,
            skipped=corpus.skipped,
            fresh_tokens=state.tokens - before,
            prefill_s=time.monotonic() - started,
        )

    def total(taken: int) -> int | None:
        return whole or _estimated(first_tokens, taken, corpus.share)

    if plan.only_text:
        for block in chain(ahead, blocks):
            document.add(block)
            yield Progress(document.tokens, total(document.tokens))
        for note in stream.notes:
            yield Note(note)
        return reading()
    for event in engine.read(state, ids()):
        last = event.last
        after_chunk(reading())
        taken = max(buffered, document.tokens)
        yield Progress(min(event.tokens, document.tokens), total(taken))
    result = reading()
    remember_speed(model, plan, "read", result.fresh_tokens, result.prefill_s)
    if "store" in stores and stores["store"].clusters:
        yield from cluster_keys(stores["store"])
    for note in stream.notes:
        yield Note(note)
    return result


def cluster_keys(store: TokenStore) -> Generator[Progress | Note, None, None]:
    """Put those keys of a store in clusters that are in none yet."""
    layers = len(store.heads)
    done, total = 0, store.unclustered
    if total:
        yield Note(f"putting the keys of {total // layers:,} tokens in clusters")
    for keys in store.cluster():
        done += keys
        yield Progress(done // layers, total // layers)


def _estimated(before: int, tokens: int, share: float | None) -> int | None:
    """Tokens of a whole text whose first ``before`` tokens are followed by a known share of it."""
    return None if not share or tokens <= before else before + round((tokens - before) / share)


def _with_fixed(request: ReadingRequest, earlier: Reading) -> ReadingRequest:
    """The request, with the options that an earlier reading has fixed."""
    memory, store = request.memory, earlier.stores.get("store")
    if not earlier.plan.fits:
        int8 = store is not None and store.int8
        embeddings = earlier.means is not None
        index = "index" in earlier.stores or embeddings or earlier.plan.words
        memory = replace(
            memory, index=index, embeddings=embeddings, store=store is not None, int8=int8
        )
        if store is None:
            source = "passages" if earlier.plan.only_index else "window"
            memory = replace(memory, answer_from=source)
    return replace(request, method=earlier.choice, memory=memory)


def _difference(model: Loaded, earlier: Reading, plan: Plan) -> str | None:
    """The first difference between an earlier reading and a plan that prevents continuing it."""
    old = earlier.plan
    was, now = (
        {"method": each.method.name, **each.method.parameters()}
        | {"chunk": each.chunk, "prefix": each.prefix, "keep": ", ".join(each.kept)}
        | {"index": each.index_name, "layers": each.depth or len(model.known.facts.layers)}
        for each in (old, plan)
    )
    for name in was | now:
        if was.get(name) != now.get(name):
            if name == "prefix":  # token ids, which mean nothing to a user
                return "another beginning of the prompt"
            return f"{name} {was.get(name)}, not {now.get(name)}"
    # Some models use other frequencies for longer texts, and cached keys are already rotated.
    frequencies = (
        [layer.rotary.inv_freq for layer in engine_of(model, each).layers if layer.rotary]
        for each in (old, plan)
    )
    same = all(map(torch.equal, *frequencies))
    return None if same else "the rotary frequencies of a shorter text"


def new_means(plan: Plan) -> StateMeans | None:
    """The empty mean states of a plan; like the index, they leave out the starting tokens."""
    return StateMeans(first=len(plan.prefix) + LEAST_SINKS) if plan.embeddings else None


def new_stores(
    model: Loaded, plan: Plan, heads: RetrievalHeads | None, pool: BlockPool | None = None
) -> dict[str, TokenStore]:
    """The empty index and store of a plan, whose memory comes from ``pool``.

    The index leaves out the starting tokens, which draw attention whatever their content.
    """
    pool = pool or BlockPool()
    stores = {}
    if plan.index and heads is not None:
        first = len(plan.prefix) + LEAST_SINKS
        stores["index"] = key_index(heads.heads, *model.lm.attention_heads, first=first, pool=pool)
    if plan.searching is not None:
        layers = model.known.facts.layers
        stores["store"] = TokenStore(
            dict.fromkeys(layer.index for layer in layers if plan.method.may_search(layer)),
            with_values=True,
            first=max(len(plan.prefix), starting_tokens(plan.method, layers)),
            int8=plan.int8,
            clusters=plan.searching.searches_clusters(layers),
            pool=pool,
        )
    return stores
