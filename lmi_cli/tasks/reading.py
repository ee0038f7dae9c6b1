"""Reading a document once, so that any number of questions can follow."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from lmi_cli.cache.state import StreamState
from lmi_cli.engine.engine import CHUNK, Engine, Ids
from lmi_cli.engine.sampling import Sampling
from lmi_cli.errors import UsageError
from lmi_cli.models.load import Loaded
from lmi_cli.sources.document import Corpus
from lmi_cli.tasks.events import Delta, Note, Progress
from lmi_cli.tasks.methodchoice import STREAM_SHARE, MethodChoice
from lmi_cli.tasks.report import (
    Answer,
    ReadingReport,
    Timing,
    Visible,
    source_reports,
)
from lmi_cli.text.encoder import StreamEncoder
from lmi_cli.text.prompts import QUESTION_LABEL, Prompt, after_stream, in_turn
from lmi_cli.text.provenance import Place, Provenance
from lmi_cli.text.stream import TokenBlock, tokenize
from lmi_cli.text.tokenizer import IncrementalDecoder


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
        corpus: What to read.
        choice: The method the user asked for.
        options: How to ask.
        questions: Every question that will be asked; the longest must fit beside the document.
        chunk: Tokens in one forward pass.
    """

    def __init__(
        self,
        loaded: Loaded,
        corpus: Corpus,
        choice: MethodChoice,
        options: AnswerOptions,
        *,
        questions: list[str],
        chunk: int = CHUNK,
    ) -> None:
        self.loaded = loaded
        self.corpus = corpus
        self.options = options
        self.provenance = Provenance()
        self.timing = Timing()
        self._choice = choice
        self._chunk = chunk
        self._questions = questions
        self._source_tokens: list[int] = []
        self._starts: list[NDArray[np.int64]] = []
        self._generated = 0
        self.document_tokens = 0
        self.fits = False
        self.prompt: Prompt
        self.engine: Engine
        self.state: StreamState
        self._last: torch.Tensor

    def read(self) -> Iterator[Progress | Note]:
        """Read the whole corpus.

        Raises:
            NoInputError: There is no text.
            UsageError: A question is longer than the window.
        """
        tokenizer, template = self.loaded.tokenizer, self.loaded.template
        fresh = in_turn(tokenizer, template, self.options.system, label=self.options.label)
        length = self.loaded.lm.trained_length
        longest = max(len(fresh.tail(question)) for question in self._questions)
        room = length - len(fresh.head) - longest - self.options.max_new_tokens

        encoder = StreamEncoder(tokenizer)
        blocks = tokenize(self.corpus.blocks, tokenizer, self.provenance, encoder)
        held: list[TokenBlock] = []
        count = 0
        self.fits = True
        for block in blocks:
            held.append(block)
            count += len(block.ids)
            if count > room:
                self.fits = False
                break

        self.prompt = fresh
        window = length
        if not self.fits:
            self.prompt = after_stream(tokenizer, template, self.options.system)
            window = max(1, length // STREAM_SHARE)
        method = self._choice.build(window, len(tokenizer.prefix))
        whole = length - room + count if self.fits else None
        self.engine = Engine(self.loaded.lm, method, self._chunk, longest=whole)
        self._require_room(method.parameters().get("window"))
        for warning in self._choice.warnings(length):
            yield Note(warning)

        self.state = self.engine.start()
        total = count if self.fits else None
        started = time.monotonic()
        for event in self.engine.read(self.state, self._ids(held, blocks)):
            self._last = event.last
            yield Progress(min(event.tokens, self.document_tokens), total)
        self.timing.add_prefill(self.state.tokens, time.monotonic() - started)
        for note in encoder.notes:
            yield Note(note)

    def ask(self, question: str, index: int = 0) -> Iterator[Delta | Answer]:
        """Answer from the state after reading; ends with the :class:`Answer`."""
        state = self.state.fork()
        tail = np.array(self.prompt.tail(question), dtype=np.int32)
        visible = self._visible(len(tail))
        started = time.monotonic()
        last = self._last
        for event in self.engine.read(state, [tail]):
            last = event.last
        decoder = IncrementalDecoder(self.loaded.tokenizer)
        parts: list[str] = []
        count = 0
        reason = "length"
        for generated in self.engine.decode(
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
        yield Answer(question, "".join(parts), reason, count, visible)

    def report(self) -> ReadingReport:
        """What was read and how."""
        method = self.engine.method
        return ReadingReport(
            method=method.name,
            parameters=method.parameters(),
            bound_tokens=self.engine.bound(),
            form="fits" if self.fits else "stream",
            document_tokens=self.document_tokens,
            cache_bytes=self.state.nbytes,
            sources=source_reports(self.corpus.sources, self._source_tokens),
            skipped=list(self.corpus.skipped),
        )

    def place(self, token: int) -> Place:
        """Where document token number ``token`` came from."""
        for starts in self._starts:
            if token < len(starts):
                return self.provenance.locate(int(starts[token]))
            token -= len(starts)
        raise IndexError("beyond the document")

    def _ids(self, held: list[TokenBlock], rest: Iterator[TokenBlock]) -> Iterator[Ids]:
        if self.prompt.head:
            yield np.array(self.prompt.head, dtype=np.int32)
        while held:
            yield self._count(held.pop(0))
        for block in rest:
            yield self._count(block)

    def _count(self, block: TokenBlock) -> Ids:
        self.document_tokens += len(block.ids)
        self._starts.append(block.starts)
        self.provenance.count_by_source(block.starts, self._source_tokens)
        return block.ids

    def _require_room(self, window: int | None) -> None:
        if window is None:
            return
        for question in self._questions:
            needed = len(self.prompt.tail(question))
            if needed > window:
                raise UsageError(
                    f"a question of {needed:,} tokens does not fit the window of {window:,}",
                    hint="shorten the question or raise --window",
                )

    def _visible(self, tail: int) -> Visible:
        """What the first token of an answer can see, behind a tail of ``tail`` tokens."""
        head = len(self.prompt.head)
        parameters = self.engine.method.parameters()
        window = parameters.get("window")
        document = self.document_tokens
        if window is None:
            return Visible(sinks=0, window=document, unseen=0)
        # The last token of the tail sees itself and window - 1 tokens before it.
        in_window = min(document, max(0, window - tail))
        sinks = min(document - in_window, max(0, parameters["sinks"] - head))
        unseen = document - in_window - sinks
        if unseen == 0:
            return Visible(sinks, in_window, 0)
        return Visible(
            sinks, in_window, unseen, self.place(sinks), self.place(document - in_window - 1)
        )
