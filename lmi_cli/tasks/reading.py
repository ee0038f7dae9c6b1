"""Reading a document once, so that any number of questions can follow."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
import torch

from lmi_cli.cache.pool import BlockPool
from lmi_cli.cache.state import StreamState
from lmi_cli.cache.store import TokenStore
from lmi_cli.engine.chunks import CHUNK
from lmi_cli.engine.engine import Engine, Ids
from lmi_cli.engine.heads import RetrievalHeads
from lmi_cli.engine.sampling import Sampling
from lmi_cli.errors import StateFileError, UsageError
from lmi_cli.methods import LMInfinite
from lmi_cli.models.heads import known_heads
from lmi_cli.models.load import Loaded
from lmi_cli.sources.blocks import Corpus
from lmi_cli.tasks.calibrate import heads_of
from lmi_cli.tasks.document import Document, Passage
from lmi_cli.tasks.events import Delta, Note, Progress
from lmi_cli.tasks.evidence import Finder, Ranked, describe, nearest_last
from lmi_cli.tasks.keep import index_for, store_for
from lmi_cli.tasks.methodchoice import STREAM_SHARE, MemoryChoice, MethodChoice
from lmi_cli.tasks.report import (
    Answer,
    ReadingReport,
    Timing,
    Visible,
    source_reports,
)
from lmi_cli.tasks.room import require_cache
from lmi_cli.tasks.speed import remember_speed
from lmi_cli.text.encoder import StreamEncoder
from lmi_cli.text.prompts import QUESTION_LABEL, Prompt, Turn, after_stream, in_turn, later_turn
from lmi_cli.text.stream import TokenBlock, tokenize
from lmi_cli.text.tokenizer import IncrementalDecoder

REREAD_PASSAGES = 2
"""Passages that are read again in front of a question; see ``docs/memory.md``."""

ROOM_SHARE = 16
"""A document that is to be read whole leaves this part of the trained length to its questions."""


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How to ask and to answer.

    Attributes:
        system: Text of the system turn.
        label: Stands in front of the question where it shares a turn with the text.
        max_new_tokens: Limit of an answer.
        sampling: How tokens are chosen.
    """

    system: str | None = None
    label: str = QUESTION_LABEL
    max_new_tokens: int = 256
    sampling: Sampling = field(default_factory=Sampling)


class Reading:
    """A document, read by a model; ask it anything.

    Whether the document fits the trained length decides, once and before reading, the form of the
    prompt and the default window: what fits is read in the model's own template exactly as the
    stock model would, what does not is read as a stream.

    Args:
        loaded: The model.
        choice: The method the user asked for.
        options: How to ask.
        memory: What is kept of a stream, and how questions use it.
        chunk: Tokens in one forward pass.
    """

    def __init__(
        self,
        loaded: Loaded,
        choice: MethodChoice,
        options: AnswerOptions,
        memory: MemoryChoice = MemoryChoice(),  # noqa: B008 - frozen
        *,
        chunk: int = CHUNK,
    ) -> None:
        self.loaded = loaded
        self.options = options
        self.choice = choice
        self.memory = memory
        self.chunk = chunk
        self.document = Document()
        self.corpus = Corpus(())
        self.timing = Timing()
        self.pool = BlockPool(memory.budget_bytes)
        self.fits = False
        self.looking: RetrievalHeads | None = None
        self.index: TokenStore | None = None
        self.store: TokenStore | None = None
        self.prompt: Prompt
        self.engine: Engine
        self.state: StreamState
        self.last: torch.Tensor
        self._finder: Finder | None = None
        self._generated = 0

    def read(
        self,
        corpus: Corpus,
        questions: Sequence[str] = (),
        *,
        begun: "Reading | None" = None,
    ) -> Iterator[Progress | Note]:
        """Read the whole corpus.

        Args:
            corpus: What to read.
            questions: Those that will be asked; the longest must fit beside the document.
            begun: A reading of the same corpus that was interrupted at the end of a chunk. It is
                gone on with, and must not be used again.

        Raises:
            NoInputError: There is no text.
            StateFileError: The corpus is not the one that ``begun`` has read.
            UsageError: A question is longer than the window.
        """
        self.corpus = corpus
        encoder = StreamEncoder(self.loaded.tokenizer)
        blocks = tokenize(corpus.blocks, self.loaded.tokenizer, self.document.provenance, encoder)
        room = self._room(questions)
        held: list[TokenBlock] = []
        count = 0
        for block in blocks:
            held.append(block)
            count += len(block.ids)
            if count > room:
                break
        self.choose(fits=count <= room, document_tokens=count)
        self.require_room(questions)
        for warning in self.choice.warnings(self.loaded.lm.trained_length):
            yield Note(warning)
        if begun is None:
            yield from self._look_with()
            self.state = self.engine.start()
            self._keep()
        else:
            self._go_on_from(begun)

        total = count if self.fits else None
        before = self.state.tokens
        started = time.monotonic()
        for event in self.engine.read(self.state, self._ids(chain(held, blocks), begun)):
            self.last = event.last
            yield Progress(min(event.tokens, self.document.tokens), total)
        seconds = time.monotonic() - started
        self.timing.add_prefill(self.state.tokens - before, seconds)
        remember_speed(self.loaded, self.engine, "read", self.state.tokens - before, seconds)
        for note in encoder.notes:
            yield Note(note)

    def choose(self, *, fits: bool, document_tokens: int) -> None:
        """Choose prompt and method.

        Args:
            fits: Whether the document is read whole, within the trained length.
            document_tokens: Its length, if it fits.
        """
        tokenizer, template = self.loaded.tokenizer, self.loaded.template
        length = self.loaded.lm.trained_length
        self.fits = fits
        window, longest = length, None
        if fits:
            self.prompt = self._in_turn()
            longest = document_tokens + length // ROOM_SHARE
        else:
            self.prompt = after_stream(tokenizer, template, self.options.system)
            window = max(1, length // STREAM_SHARE)
        method = self.choice.build(window, len(tokenizer.prefix))
        self.engine = Engine(self.loaded.lm, method, self.chunk, longest=longest)
        require_cache(self.loaded, self.engine, longest)

    def _keep(self) -> None:
        """Make the stores that the choice of memory asks for, and let the state fill them."""
        head = len(self.prompt.head)
        if self.looking is not None:
            self.index = index_for(self.loaded.lm, self.looking, head, self.pool)
        method = self.engine.method
        if self._wants_store() and isinstance(method, LMInfinite):
            self._with_memory(method)  # what is out of range is said before anything is read
            self.store = store_for(self.engine, head, self.pool, int8=self.memory.int8)
        self.state.keep(*(store for store in (self.index, self.store) if store is not None))

    def read_on(self, corpus: Corpus) -> Iterator[Progress | Note]:
        """Read more behind what has been read.

        A document that no longer fits the trained length is read again as a stream, from the tokens
        that are known.

        Raises:
            NoInputError: There is no text.
        """
        known = self.document
        # The corpus numbers its sources as they come, so those that were read go in front first.
        corpus.sources[:0] = self.corpus.sources
        corpus.skipped[:0] = self.corpus.skipped
        self.corpus = corpus
        encoder = StreamEncoder(self.loaded.tokenizer)
        base = known.provenance.chars
        fresh = tokenize(corpus.blocks, self.loaded.tokenizer, known.provenance, encoder)
        blocks = (
            replace(block, starts=block.starts + base, offset=block.offset + base)
            for block in fresh
        )
        held: list[TokenBlock] = []
        room = self._room(()) - known.tokens
        for block in blocks if self.fits else ():
            held.append(block)
            if sum(len(block.ids) for block in held) > room:
                break
        again: list[Ids] = []
        if self.fits and sum(len(block.ids) for block in held) > room:
            self.choose(fits=False, document_tokens=0)
            yield from self._look_with()
            self.state = self.engine.start()
            self._keep()
            again = [np.array(self.prompt.head, dtype=np.int32), known.ids]
        self._finder = None

        def ids() -> Iterator[Ids]:
            yield from again
            for block in chain(held, blocks):
                known.add(block)
                yield block.ids

        started = time.monotonic()
        first = self.state.tokens
        for event in self.engine.read(self.state, ids()):
            self.last = event.last
            yield Progress(min(event.tokens, known.tokens))
        self.timing.add_prefill(self.state.tokens - first, time.monotonic() - started)

    def ask(
        self, question: str, index: int = 0, earlier: Sequence[Turn] = ()
    ) -> Iterator[Delta | Answer]:
        """Answer from the state after reading; ends with the :class:`Answer`.

        Args:
            question: As the user asked it.
            index: Number of the question, for the random generator.
            earlier: Turns of the conversation that the question goes on with; the oldest are
                dropped if they do not fit.
        """
        started = time.monotonic()
        # A question that goes on with the last one is seldom clear without it.
        ranked = self.rank(" ".join([*(asked for asked, _ in earlier[-1:]), question]))
        source = self.answers_from(ranked)
        chosen: list[Passage] = []
        if source == "passages":
            chosen = nearest_last([item.passage for item in ranked[:REREAD_PASSAGES]])
            engine, ids = self._reread(chosen, question, earlier)
            state = engine.start()
        else:
            engine = self.engine
            ids = np.array(self._tail(question, earlier), dtype=np.int32)
            method = engine.method
            if source == "memory" and isinstance(method, LMInfinite):
                method = self._with_memory(method)
            state = self.state.fork(method, self.store)
        visible = self._visible(source, len(ids), chosen)
        last = self.last
        for event in engine.read(state, [ids]):
            last = event.last
        decoder = IncrementalDecoder(self.loaded.tokenizer)
        parts: list[str] = []
        count = 0
        reason = "length"
        for generated in engine.decode(
            state,
            last,
            stop_ids=self.loaded.tokenizer.stop_ids,
            limit=self.options.max_new_tokens,
            sampling=self.options.sampling,
            index=index,
        ):
            if self.timing.first_token_s is None:
                self.timing.first_token_s = time.monotonic() - started
            text = ""
            if generated.finish_reason != "stop":
                count += 1
                text = decoder.push(generated.token)
            if generated.finish_reason is not None:
                reason = generated.finish_reason
                text += decoder.flush()
            if not parts:
                text = text.lstrip()
            if text:
                parts.append(text)
                yield Delta(index, text)
        self._generated += count
        self.timing.add_decode(self._generated, time.monotonic() - started)
        evidence = describe(self.document, self.corpus.sources, ranked)
        yield Answer(question, "".join(parts), reason, count, visible, source, evidence)

    @property
    def kept(self) -> tuple[str, ...]:
        """What of ``index`` and ``store`` there is."""
        stores = {"index": self.index, "store": self.store}
        return tuple(name for name, store in stores.items() if store is not None)

    def rank(self, question: str) -> list[Ranked]:
        """The passages of the document, best first; none where there is no index."""
        if self.index is None or self.looking is None or not self.index.tokens:
            return []
        if self._finder is None:
            self._finder = Finder(
                self.engine,
                self.looking,
                self.index,
                self.document.borders,
                len(self.prompt.head),
                self.prompt.tail,
            )
        return self._finder.rank(self.state, question)

    def answers_from(self, ranked: Sequence[Ranked]) -> str:
        """Where the answer comes from; see :class:`lmi_cli.tasks.report.Answer`."""
        window = self.engine.method.parameters().get("window")
        # A user may ask for a window that is narrower than a document that would fit.
        if window is None or (self.fits and self.state.tokens < window):
            return "whole"
        wanted = self.memory.answer_from
        if wanted == "auto":
            wanted = "passages" if ranked else "memory" if self.store is not None else "window"
        if wanted == "passages" and not ranked:
            raise UsageError(
                "there are no passages to answer from",
                hint="they take an index, kept while reading, and heads that look things up",
            )
        if wanted == "memory" and self.store is None:
            raise UsageError(
                "there is no memory to answer from", hint="read again with --keep store"
            )
        return wanted

    def report(self) -> ReadingReport:
        """What was read and how."""
        method = self.engine.method
        if self.store is not None and isinstance(method, LMInfinite):
            method = self._with_memory(method)
        kept = [store for store in (self.index, self.store) if store is not None]
        return ReadingReport(
            method=method.name,
            parameters=method.parameters(),
            bound_tokens=self.engine.bound(),
            form="fits" if self.fits else "stream",
            document_tokens=self.document.tokens,
            cache_bytes=self.state.nbytes,
            sources=source_reports(self.corpus.sources, self.document.source_tokens),
            skipped=list(self.corpus.skipped),
            stored_tokens=0 if self.store is None else self.store.tokens,
            indexed_tokens=0 if self.index is None else self.index.tokens,
            store_bytes=sum(store.nbytes for store in kept),
        )

    def require_room(self, questions: Sequence[str]) -> None:
        """Refuse a question that a window cannot hold.

        Raises:
            UsageError: A question is longer than the window.
        """
        window = self.engine.method.parameters().get("window")
        if window is None:
            return
        for question in questions:
            needed = len(self.prompt.tail(question))
            if needed > window:
                raise UsageError(
                    f"a question of {needed:,} tokens does not fit the window of {window:,}",
                    hint="shorten the question or raise --window",
                )

    def _room(self, questions: Sequence[str]) -> int:
        """Tokens of a document that can be read whole."""
        prompt, length = self._in_turn(), self.loaded.lm.trained_length
        longest = max((len(prompt.tail(question)) for question in questions), default=0)
        asking = max(longest + self.options.max_new_tokens, length // ROOM_SHARE)
        return length - len(prompt.head) - asking

    def _in_turn(self, earlier: Sequence[Turn] = ()) -> Prompt:
        return in_turn(
            self.loaded.tokenizer,
            self.loaded.template,
            self.options.system,
            label=self.options.label,
            earlier=earlier,
        )

    def _look_with(self) -> Iterator[Progress | Note]:
        """Find the model's retrieval heads, where they are of use."""
        self.looking = None
        if not self.memory.index:
            return
        if self.fits or self.engine.bound() is None:
            known = known_heads(self.loaded.files)
            self.looking = known if known is not None and known.heads else None
            return
        for event in heads_of(self.loaded, self.chunk):
            if isinstance(event, RetrievalHeads):
                self.looking = event
            else:
                yield event

    def _wants_store(self) -> bool:
        if self.fits or not isinstance(self.engine.method, LMInfinite):
            return False
        return self.memory.store or (
            self.memory.answer_from == "auto" and self.memory.index and self.looking is None
        )

    def _go_on_from(self, begun: "Reading") -> None:
        self.looking, self.index, self.store = begun.looking, begun.index, begun.store
        self.state, self.last = begun.state, begun.last

    def _ids(self, blocks: Iterable[TokenBlock], begun: "Reading | None") -> Iterator[Ids]:
        """What is still to be read: all of it, or what comes behind what was read before."""
        done = 0
        if begun is not None:
            done = begun.state.tokens - len(self.prompt.head)
        elif self.prompt.head:
            yield np.array(self.prompt.head, dtype=np.int32)
        for block in blocks:
            known = max(0, min(len(block.ids), done - self.document.tokens))
            if begun is not None and known:
                at = self.document.tokens
                if not np.array_equal(begun.document.ids[at : at + known], block.ids[:known]):
                    raise StateFileError("the sources are not those that were begun to be read")
            self.document.add(block)
            yield block.ids[known:]

    def _with_memory(self, method: LMInfinite) -> LMInfinite:
        return replace(method, memory=self.memory.build(method, len(self.engine.layers)))

    def _tail(self, question: str, earlier: Sequence[Turn]) -> list[int]:
        """Ids of a question behind the document, and behind the conversation so far."""
        if not earlier:
            return self.prompt.tail(question)
        turn = later_turn(self.loaded.tokenizer, self.loaded.template)
        asked, answers = zip(*earlier, strict=True)
        ids = self.prompt.tail(asked[0])
        for given, following in zip(answers, [*asked[1:], question], strict=True):
            ids += self.loaded.tokenizer.encode(given).ids.tolist() + turn.tail(following)
        return ids if len(ids) <= self._talk_room() else self._tail(question, earlier[1:])

    def _talk_room(self) -> int:
        """Tokens that questions and answers may take, so that most of a window is the text's."""
        window = self.engine.method.parameters().get("window")
        return (self.loaded.lm.trained_length if window is None else window) // 2

    def _reread(
        self, passages: Sequence[Passage], question: str, earlier: Sequence[Turn]
    ) -> tuple[Engine, Ids]:
        """An engine and the ids of a fresh prompt with these passages."""
        prompt = self._in_turn(earlier)
        while earlier and len(prompt.head) > self._talk_room():
            earlier = earlier[1:]
            prompt = self._in_turn(earlier)
        gap = self.loaded.tokenizer.encode("\n\n").ids
        parts: list[Ids] = [np.array(prompt.head, dtype=np.int32)]
        for number, passage in enumerate(passages):
            if number and passages[number - 1].stop != passage.first:
                parts.append(gap)
            parts.append(self.document.ids[passage.first : passage.stop])
        parts.append(np.array(prompt.tail(question), dtype=np.int32))
        ids = np.concatenate(parts)
        length = self.loaded.lm.trained_length
        method = MethodChoice().build(length, len(self.loaded.tokenizer.prefix))
        longest = len(ids) + self.options.max_new_tokens
        return Engine(self.loaded.lm, method, self.chunk, longest=longest), ids

    def _visible(self, source: str, tail: int, reread: Sequence[Passage]) -> Visible:
        """What the first token of an answer can see, behind ``tail`` tokens."""
        document = self.document.tokens
        searched = self.index.tokens if self.index is not None and source == "passages" else 0
        if reread:
            again = sum(len(passage) for passage in reread)
            return Visible(0, 0, document - again, searched=searched, reread=again)
        head = len(self.prompt.head)
        parameters = self.engine.method.parameters()
        window = parameters.get("window")
        if window is None:
            return Visible(sinks=0, window=document, unseen=0)
        # The last token of the tail sees itself and window - 1 tokens before it.
        in_window = min(document, max(0, window - tail))
        sinks = min(document - in_window, max(0, parameters["sinks"] - head))
        unseen = document - in_window - sinks
        if unseen == 0:
            return Visible(sinks, in_window, 0)
        visible = Visible(
            sinks,
            in_window,
            unseen,
            self.document.place(sinks),
            self.document.place(document - in_window - 1),
        )
        if source == "memory" and isinstance(self.engine.method, LMInfinite):
            memory = self.memory.build(self.engine.method, len(self.engine.layers))
            visible.searched = unseen
            visible.attended = min(memory.topk, unseen)
        return visible
