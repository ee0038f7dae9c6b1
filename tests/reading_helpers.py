"""Short ways to read a corpus and to ask about it, with the tasks that commands use."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lmi_cli.engine.sampling import Sampling
from lmi_cli.methods import MethodChoice
from lmi_cli.models.load import Loaded
from lmi_cli.sources import Corpus
from lmi_cli.tasks.asking import AnswerOptions, Asker
from lmi_cli.tasks.events import Delta, Note, Progress, follow
from lmi_cli.tasks.plan import NO_MEMORY, MemoryChoice, ReadingRequest
from lmi_cli.tasks.reading import Reading, read
from lmi_cli.tasks.report import Answer
from lmi_cli.text.prompts import Prompts, Turn, prompts_of
from lmi_cli.text.stream import TokenStream


@dataclass(frozen=True)
class Settings:
    """What a user may choose, with defaults for tiny models."""

    choice: MethodChoice = field(default_factory=MethodChoice)
    memory: MemoryChoice = NO_MEMORY
    system: str | None = None
    max_new_tokens: int = 6
    chunk: int = 64
    sampling: Sampling = field(default_factory=Sampling)

    def prompts(self, model: Loaded) -> Prompts:
        return prompts_of(model.tokenizer, model.template, self.system)

    def request(self, model: Loaded) -> ReadingRequest:
        return ReadingRequest(
            self.prompts(model), self.choice, self.memory, self.max_new_tokens, self.chunk
        )

    def options(self, model: Loaded) -> AnswerOptions:
        return AnswerOptions(
            self.prompts(model),
            self.choice,
            self.memory.answer_from,
            self.max_new_tokens,
            self.sampling,
        )

    def task(
        self, model: Loaded, corpus: Corpus, questions: Sequence[str] = (), **more: Any
    ) -> Generator[Progress | Note, None, Reading]:
        stream = TokenStream(corpus, model.tokenizer)
        return read(model, stream, self.request(model), questions, **more)

    def read(
        self, model: Loaded, corpus: Corpus, questions: Sequence[str] = (), **more: Any
    ) -> Reading:
        return follow(self.task(model, corpus, questions, **more))

    def events(
        self, model: Loaded, corpus: Corpus, questions: Sequence[str] = ()
    ) -> list[Progress | Note]:
        return list(self.task(model, corpus, questions))

    def asker(self, model: Loaded, reading: Reading) -> Asker:
        return Asker(model, reading, self.options(model))

    def ask(
        self,
        model: Loaded,
        reading: Reading,
        question: str = "What is green?",
        source: str | None = None,
        earlier: Sequence[Turn] = (),
    ) -> Answer:
        pieces: list[str] = []
        task = self.asker(model, reading).ask(question, 0, earlier, answer_from=source)
        answer = follow(
            task, lambda event: pieces.append(event.text) if isinstance(event, Delta) else None
        )
        assert "".join(pieces) == answer.answer
        return answer

    def but(self, **changes: Any) -> "Settings":
        return replace(self, **changes)
