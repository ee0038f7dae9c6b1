"""Summaries of sentences of the text: parts, places, files and folders, a focus."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmi_cli.errors import NoInputError, UsageError
from lmi_cli.models.load import Loaded
from lmi_cli.sources import Corpus, open_corpus
from lmi_cli.sources.blocks import Bookmark
from lmi_cli.tasks.divided import read_document
from lmi_cli.tasks.document import Document, Passage
from lmi_cli.tasks.events import Note, follow
from lmi_cli.tasks.evidence import Ranked
from lmi_cli.tasks.headings import headings_of
from lmi_cli.tasks.summarize import summarize
from lmi_cli.tasks.summary import LENGTHS, Entry, Length, SummaryReport, length_of, strategy_of
from lmi_cli.text.stream import TokenStream

PLACES = ("amber", "birch", "cedar", "dune", "fjord", "grove", "heath")


def sentence(number: int) -> str:
    """A sentence about places, unlike those about others."""
    letters = "".join(chr(97 + int(digit)) for digit in f"{number:04d}")
    a, b, c, d, e, f, g = (place + letters for place in PLACES)
    return f"The {a} {b} of {c} lies beyond {d} and {e} in the {f} of {g}."


def chapter(number: int, sentences: int) -> str:
    first = 1000 * number
    text = " ".join(sentence(first + n) for n in range(sentences))
    return f"# Chapter {'ABCDEFGHIJ'[number]}\n\n{text}\n\n"


def document_of(model: Loaded, corpus: Corpus) -> Document:
    return follow(read_document(TokenStream(corpus, model.tokenizer)))


def run(
    model: Loaded, corpus: Corpus, length: Length = LENGTHS["medium"]
) -> tuple[SummaryReport, list[Entry | Note]]:
    document = document_of(model, corpus)
    events: list[Entry | Note] = []
    report = follow(summarize(document, corpus.sources, corpus.skipped, length), events.append)
    return report, events


def piped(text: str) -> Corpus:
    return open_corpus(["-"], stdin=io.BytesIO(text.encode()))


@pytest.fixture
def book() -> str:
    return "".join(chapter(number, 40) for number in range(6))


def test_every_statement_is_a_sentence_of_its_place(loaded: Loaded, book: str) -> None:
    report, _ = run(loaded, piped(book))
    entries = [statement for entry in report.outline for statement in entry.statements]
    assert len(report.statements) == 6 and len(entries) >= len(report.outline)
    for statement in (*report.statements, *entries):
        place = statement.first.char or 0
        assert book[place:].startswith(statement.text)
        assert statement.first.line == book[:place].count("\n") + 1
        assert statement.source == "<stdin>" and statement.support is None
    for entry in report.outline:
        for statement in entry.statements:
            assert (entry.first.char or 0) <= (statement.first.char or 0)
            assert (statement.last.char or 0) <= (entry.last.char or 0)
            assert statement.part in entry.parts


def test_the_outline_covers_every_part_in_order(loaded: Loaded, book: str) -> None:
    report, events = run(loaded, piped(book))
    assert events == list(report.outline)
    numbers = [number for entry in report.outline for number in entry.parts]
    assert numbers == list(range(report.parts))
    assert sum(entry.tokens for entry in report.outline) == report.tokens
    assert all(entry.statements for entry in report.outline)
    assert [entry.titles for entry in report.outline] == [
        (f"Chapter {letter}",) for letter in "ABCDEF"
    ]


def test_no_sentence_comes_twice(loaded: Loaded) -> None:
    same = "The amber of this country lies between the hills and the woods of the north. "
    text = "".join(f"# Part {letter}\n\n{same * 80}\n\n" for letter in "ABC")
    report, _ = run(loaded, piped(text))
    said = [statement.text for entry in report.outline for statement in entry.statements]
    assert said.count(same.strip()) == 1
    assert len(report.statements) == 1


@pytest.mark.parametrize("name", list(LENGTHS))
def test_lengths(loaded: Loaded, book: str, name: str) -> None:
    length = length_of(name)
    report, _ = run(loaded, piped(book), length)
    assert len(report.statements) == length.sentences
    assert length.entries is None or len(report.outline) <= length.entries
    assert max(len(entry.statements) / len(entry.parts) for entry in report.outline) <= (
        length.per_entry
    )


def test_a_short_text_has_a_short_summary(loaded: Loaded) -> None:
    report, _ = run(loaded, piped(" ".join(sentence(n) for n in range(10))))
    assert len(report.statements) == 3 and report.parts == 1


def test_a_summary_of_a_long_text_comes_from_all_of_it(loaded: Loaded) -> None:
    text = "\n\n".join(sentence(n) for n in range(6000))
    report, _ = run(loaded, piped(text))
    places = [(statement.first.char or 0) / len(text) for statement in report.statements]
    assert len({int(3 * place) for place in places}) == 3


@pytest.mark.parametrize("text", ["a,b,c\n1,2,3\n", "x", "the grass\n\nis green\n", "#\n#\n#\n."])
def test_what_has_no_sentences_shows_its_lines(loaded: Loaded, text: str) -> None:
    report, events = run(loaded, piped(text))
    assert any(isinstance(event, Note) for event in events)
    assert len(report.outline) == 1
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert all(statement.text in lines for statement in report.statements)


def test_no_text(loaded: Loaded) -> None:
    with pytest.raises(NoInputError):
        follow(summarize(Document(), [], [], LENGTHS["short"]))


@given(text=st.text(alphabet="aA. \n#\"'é。\u0301-1", min_size=1, max_size=300))
def test_any_text(loaded: Loaded, text: str) -> None:
    if not text.strip():
        return
    report, _ = run(loaded, piped(text + "x"))
    assert sum(entry.tokens for entry in report.outline) == report.tokens


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match="'tiny' for --length"):
        length_of("tiny")
    with pytest.raises(UsageError, match="'best' for --strategy"):
        strategy_of("best", 0)
    assert strategy_of("auto", 135_000_000) == "extract"
    assert strategy_of("auto", 7_000_000_000) == "tree"
    assert strategy_of("chain", 1) == "chain"


class TestFiles:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        root = tmp_path / "tool"
        files = {
            "README.md": "# Tool\n\n" + " ".join(sentence(n) for n in range(12)),
            "src/__init__.py": f'"""{sentence(100)}"""\n',
            "src/big.py": f'"""{sentence(101)}"""\n' + "x = 1\n" * 500,
            "src/small.py": f"# {sentence(102)}\nx = 1\n",
            "src/plain.py": "x = 1\n",
            "test/test_it.py": f'"""{sentence(103)}"""\n',
        }
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return root

    def entries(self, report: SummaryReport, root: Path) -> list[tuple[str, str, list[str]]]:
        return [
            (
                entry.kind,
                entry.titles[0].removeprefix(f"{root}/"),
                [statement.text for statement in entry.statements],
            )
            for entry in report.outline
        ]

    def test_a_line_for_each_folder_and_file(self, loaded: Loaded, tree: Path) -> None:
        report, _ = run(loaded, open_corpus([str(tree)]))
        assert self.entries(report, tree) == [
            ("folder", " (1 file)", [sentence(0)]),
            ("folder", "src/ (4 files)", [sentence(100)]),
            ("file", "src/big.py", [sentence(101)]),
            ("file", "src/plain.py", ["x = 1"]),
            ("file", "src/small.py", [sentence(102)]),
            ("folder", "test/ (1 file)", []),
            ("file", "test/test_it.py", [sentence(103)]),
        ]

    def test_the_purpose_comes_from_the_readme(self, loaded: Loaded, tree: Path) -> None:
        report, _ = run(loaded, open_corpus([str(tree)]))
        assert len(report.statements) == 3
        assert {statement.source for statement in report.statements} == {f"{tree}/README.md"}
        (tree / "README.md").unlink()
        report, _ = run(loaded, open_corpus([str(tree)]))
        assert {statement.text for statement in report.statements} <= {
            sentence(n) for n in range(100, 104)
        }

    def test_only_the_largest_files_where_there_are_many(self, loaded: Loaded, tree: Path) -> None:
        report, _ = run(loaded, open_corpus([str(tree)]), Length(3, 1, 1))
        files = [title for kind, title, _ in self.entries(report, tree) if kind == "file"]
        assert files == ["src/big.py"]

    def test_long_documents_are_outlined_one_by_one(
        self, loaded: Loaded, book: str, corpus: Callable[..., Corpus]
    ) -> None:
        report, _ = run(loaded, corpus(book, book.replace("Chapter", "Section")))
        assert {entry.kind for entry in report.outline} == {"part"}
        assert [entry.titles[0] for entry in report.outline] == [
            f"{kind} {letter}" for kind in ("Chapter", "Section") for letter in "ABCDEF"
        ]


def test_bookmarks_that_lead_nowhere_give_way_to_headings(loaded: Loaded, book: str) -> None:
    corpus = piped(book)
    document = document_of(loaded, corpus)
    (source,) = corpus.sources
    source.outline = [Bookmark("Of no page", 7)]
    found = headings_of(document, [source])
    assert [heading.title for heading in found] == [f"Chapter {letter}" for letter in "ABCDEF"]


def test_a_long_document_among_many_short_ones(
    loaded: Loaded, book: str, corpus: Callable[..., Corpus]
) -> None:
    report, _ = run(loaded, corpus(*[f"{sentence(n)}" for n in range(20)], book), Length(3, 10, 1))
    assert report.parts > 24 and report.part_tokens < report.tokens / 4


def test_with_a_focus_passages_decide(loaded: Loaded, book: str) -> None:
    corpus = piped(book)
    document = document_of(loaded, corpus)
    bounds = document.borders.tolist()
    wanted = len(bounds) // 2
    ranked = [
        Ranked(Passage(n, bounds[n], bounds[n + 1]), -float(abs(n - wanted)))
        for n in range(len(bounds) - 1)
    ]
    ranked.sort(key=lambda item: -item.score)
    task = summarize(document, corpus.sources, [], LENGTHS["short"], ranked=ranked)
    report = follow(task)
    middle = document.starts[bounds[wanted]]
    distances = [abs((each.first.char or 0) - middle) for each in report.statements]
    assert np.mean(distances) < len(book) / 8
    assert 0 < len(report.outline) < 6
    assert all(1 <= len(entry.statements) <= 2 for entry in report.outline)
