"""Summaries by the default model: every kind of document, without loops, with places."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.models.load import Loaded, load
from lmi_cli.sources import open_corpus
from lmi_cli.tasks.divided import DividedDocument, read_document
from lmi_cli.tasks.events import follow
from lmi_cli.tasks.summarize import summarize
from lmi_cli.tasks.summary import LENGTHS, SummaryReport
from lmi_cli.tasks.writing import LEAST_SUPPORT, WritingOptions, part_tokens, write_summary
from lmi_cli.text.prompts import prompts_of
from lmi_cli.text.stream import TokenStream

pytestmark = [pytest.mark.model, pytest.mark.slow]

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "docs/example.pdf", "docs/memory.md", "lmi_cli/text", "docs")


@pytest.fixture(scope="module")
def model() -> Iterator[Loaded]:
    model = load(resolve(None))
    yield model
    model.lm.close()


def run(model: Loaded, name: str, strategy: str) -> SummaryReport:
    corpus = open_corpus([str(ROOT / name)])
    document = follow(read_document(TokenStream(corpus, model.tokenizer)))
    length = LENGTHS["medium"]
    if strategy == "extract":
        return follow(summarize(document, corpus.sources, corpus.skipped, length))
    prompts = prompts_of(model.tokenizer, model.template, None, "")
    options = WritingOptions(prompts, length, chunk=model.lm.chunk)
    size = part_tokens(model.known, prompts, length)
    divided = DividedDocument(document, corpus.sources, size)
    return follow(write_summary(model, divided, corpus.skipped, strategy, options))


def repeats(said: list[str]) -> list[str]:
    """Sentences that come again, or in which six words in a row do."""
    found = [sentence for sentence in set(said) if said.count(sentence) > 1]
    for sentence in said:
        words = sentence.lower().split()
        runs = [tuple(words[at : at + 6]) for at in range(len(words) - 5)]
        if len(set(runs)) < len(runs):
            found.append(sentence)
    return found


@pytest.mark.parametrize("name", DOCUMENTS)
def test_sentences_of_the_text(model: Loaded, name: str) -> None:
    report = run(model, name, "extract")
    entries = [statement.text for entry in report.outline for statement in entry.statements]
    assert report.statements and report.outline
    assert repeats([statement.text for statement in report.statements]) == []
    assert repeats(entries) == []


@pytest.mark.parametrize(
    ("name", "strategy"),
    [("docs/memory.md", "tree"), ("docs/memory.md", "chain"), ("docs/example.pdf", "tree")],
)
def test_written_sentences(model: Loaded, name: str, strategy: str) -> None:
    report = run(model, name, strategy)
    assert report.generated > 0 and report.statements
    assert [number for entry in report.outline for number in entry.parts] == [*range(report.parts)]
    said = [*report.statements, *(each for entry in report.outline for each in entry.statements)]
    assert all(each.support is None or each.support >= LEAST_SUPPORT for each in said)
    assert repeats([each.text for each in report.statements]) == []
