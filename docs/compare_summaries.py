"""Compare the strategies of ``lmi summarize`` with each other and with the first sentences.

Needs ``pip install rouge-score`` (lmi does not depend on it).

    python docs/compare_summaries.py papers FOLDER STRATEGY...
    python docs/compare_summaries.py manuals FILE.pdf... -- STRATEGY...
    python docs/compare_summaries.py novels FILE.txt... -- STRATEGY...

A paper is a text without its abstract, ``NAME.txt``, beside its abstract, ``NAME.ref``: ROUGE F1 of
the summary against it. A manual is a PDF with an outline: the share of its chapters of which one of
the five words that distinguish it most (TF-IDF over chapters) is in the summary or its outline. A
novel: the share of its ten most frequent names in summary and outline, and of its 24 equal parts
that the outline has a sentence from. ``lead`` are the first sentences, as many words as ``extract``
has. Loops: texts in which a sentence, or six words in a row, come again.
"""

import math
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.models.load import Loaded, load
from lmi_cli.sources import open_corpus
from lmi_cli.sources.blocks import Corpus
from lmi_cli.tasks import reading, writing
from lmi_cli.tasks.asking import AnswerOptions, Asker
from lmi_cli.tasks.divided import DividedDocument, read_document
from lmi_cli.tasks.document import Document
from lmi_cli.tasks.events import follow
from lmi_cli.tasks.plan import NO_MEMORY, ReadingRequest
from lmi_cli.tasks.summarize import summarize
from lmi_cli.tasks.summary import LENGTHS, SummaryReport
from lmi_cli.text.prompts import SUMMARY_INSTRUCTION, prompts_of
from lmi_cli.text.sentences import sentences, words
from lmi_cli.text.stream import TokenStream

LENGTH = LENGTHS["medium"]
CHAPTER = re.compile(r"(?:Chapter |Appendix )?(?:\d+|[A-Z])\.? ")


@dataclass
class Output:
    """The sentences of a summary and of its outline, where these begin, and the share of parts."""

    summary: list[str]
    outline: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    covered: float = 0.0

    @property
    def text(self) -> str:
        """All of it."""
        return " ".join(self.summary + self.outline)


class Subject:
    """A document, and all strategies on it."""

    def __init__(self, model: Loaded, path: Path) -> None:
        self.model, self.path = model, path
        self.corpus: Corpus = open_corpus([str(path)])
        stream = TokenStream(self.corpus, model.tokenizer)
        self.document: Document = follow(read_document(stream))
        self.text = self.document.text

    def run(self, strategy: str) -> Output:
        """The output of a strategy."""
        return getattr(self, strategy)()

    def extract(self) -> Output:
        """Sentences of the text."""
        return _output(follow(summarize(self.document, self.corpus.sources, [], LENGTH)))

    def lead(self) -> Output:
        """The first sentences, as many words as those of ``extract``."""
        extract = self.extract()
        found = [" ".join(self.text[a:b].split()) for a, b in sentences(self.text)]
        return Output(_first(found, extract.summary), _first(found, extract.outline), [0], 0.0)

    def window(self) -> Output:
        """What the model writes about what it sees at the end of reading."""
        prompts = prompts_of(self.model.tokenizer, self.model.template, None, "")
        request = ReadingRequest(prompts, memory=NO_MEMORY, chunk=self.model.lm.chunk)
        stream = TokenStream(open_corpus([str(self.path)]), self.model.tokenizer)
        read = follow(reading.read(self.model, stream, request, [SUMMARY_INSTRUCTION]))
        asker = Asker(self.model, read, AnswerOptions(prompts, answer_from="window"))
        answer = follow(asker.ask(SUMMARY_INSTRUCTION)).answer
        return Output([" ".join(answer[a:b].split()) for a, b in sentences(answer)])

    def tree(self) -> Output:
        """What the model writes about each part, and about that."""
        return self._written("tree")

    def chain(self) -> Output:
        """What the model writes about each part behind its notes so far."""
        return self._written("chain")

    def _written(self, strategy: str) -> Output:
        prompts = prompts_of(self.model.tokenizer, self.model.template, None, "")
        options = writing.WritingOptions(prompts, LENGTH, chunk=self.model.lm.chunk)
        size = writing.part_tokens(self.model.known, prompts, LENGTH)
        divided = DividedDocument(self.document, self.corpus.sources, size)
        return _output(
            follow(writing.write_summary(self.model, divided, [], strategy, options)),
        )


def _first(found: Sequence[str], like: Sequence[str]) -> list[str]:
    budget, kept = sum(len(each.split()) for each in like), list[str]()
    for sentence in found:
        if budget <= 0:
            break
        kept.append(sentence)
        budget -= len(sentence.split())
    return kept


def _output(report: SummaryReport) -> Output:
    entries = [statement for entry in report.outline for statement in entry.statements]
    numbers = {number for entry in report.outline for number in entry.parts}
    return Output(
        [statement.text for statement in report.statements],
        [statement.text for statement in entries],
        [statement.first.char or 0 for statement in entries],
        len(numbers) / report.parts,
    )


def loops(said: Sequence[str]) -> bool:
    """Whether a sentence, or six words in a row, come again."""
    if len(set(said)) < len(said):
        return True
    for sentence in said:
        found = sentence.lower().split()
        runs = [tuple(found[at : at + 6]) for at in range(len(found) - 5)]
        if len(set(runs)) < len(runs):
            return True
    return False


def chapters_named(each: Subject, output: Output) -> tuple[int, int]:
    """Chapters of which a key term is in the output, and all chapters."""
    divided = DividedDocument(each.document, each.corpus.sources)
    heads = [head for head in divided.headings() if CHAPTER.match(head.title)]
    ends = [head.offset for head in heads[1:]] + [len(each.text)]
    counts = [
        Counter(words(each.text[head.offset : end])) for head, end in zip(heads, ends, strict=True)
    ]
    among = Counter(word for count in counts for word in count)
    said, named = set(words(output.text)), 0
    for count in counts:

        def weight(word: str, count: Counter[str] = count) -> float:
            return math.log1p(count[word]) * math.log((len(counts) + 1) / (among[word] + 0.5))

        terms = sorted((word for word in count if count[word] > 2), key=weight)[-5:]
        named += any(term in said for term in terms)
    return named, len(counts)


def names(text: str) -> list[str]:
    """The ten most frequent words with a capital within sentences, forms of address apart."""
    found = Counter(re.findall(r"(?<=[a-z,;] )[A-Z][a-z]{2,}", text))
    for address in ("Miss", "Mrs", "Lady", "Sir", "God", "Sunday"):
        del found[address]
    return [name for name, _ in found.most_common(10)]


def papers(model: Loaded, paths: Sequence[Path], strategies: Sequence[str]) -> None:
    """ROUGE against the abstracts."""
    from rouge_score.rouge_scorer import RougeScorer

    kinds = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(kinds, use_stemmer=True)
    for strategy in strategies:
        total, looping, started = [0.0] * 3, 0, time.monotonic()
        for path in paths:
            output = Subject(model, path).run(strategy)
            looping += loops(output.summary)
            reference = path.with_suffix(".ref").read_text(encoding="utf-8")
            found = scorer.score(reference, " ".join(output.summary))
            total = [old + found[kind].fmeasure for old, kind in zip(total, kinds, strict=True)]
        means = "  ".join(f"{100 * value / len(paths):5.1f}" for value in total)
        _say(strategy, f"ROUGE-1/2/L {means}  loops {looping}/{len(paths)}", started)


def manuals(model: Loaded, paths: Sequence[Path], strategies: Sequence[str]) -> None:
    """Chapters of which a key term is named."""

    def measure(each: Subject, output: Output) -> str:
        named, of = chapters_named(each, output)
        return f"chapters {named}/{of}"

    _each(model, paths, strategies, measure)


def novels(model: Loaded, paths: Sequence[Path], strategies: Sequence[str]) -> None:
    """Names, and parts that the outline covers."""

    def measure(each: Subject, output: Output) -> str:
        wanted = names(each.text)
        named = sum(name in output.text for name in wanted)
        parts = {24 * place // len(each.text) for place in output.places}
        return f"names {named}/10  24ths {len(parts)}/24"

    _each(model, paths, strategies, measure)


def _each(
    model: Loaded,
    paths: Sequence[Path],
    strategies: Sequence[str],
    measure: Callable[[Subject, Output], str],
) -> None:
    for path in paths:
        for strategy in strategies:
            started = time.monotonic()
            each = Subject(model, path)
            output = each.run(strategy)
            line = f"{path.name:20} {measure(each, output)}  parts {100 * output.covered:3.0f} %"
            _say(strategy, f"{line}  loops {loops(output.summary)}", started)


def _say(strategy: str, line: str, started: float) -> None:
    sys.stdout.write(f"{strategy:8} {line}  {time.monotonic() - started:6.1f} s\n")
    sys.stdout.flush()


def main(kind: str, *arguments: str) -> None:
    """Compare on papers, manuals or novels."""
    model = load(resolve(None))
    if kind == "papers":
        folder, *strategies = arguments
        papers(model, sorted(Path(folder).glob("*.txt")), strategies)
        return
    at = arguments.index("--")
    paths, strategies = [Path(path) for path in arguments[:at]], list(arguments[at + 1 :])
    {"manuals": manuals, "novels": novels}[kind](model, paths, strategies)


if __name__ == "__main__":
    main(*sys.argv[1:])
