"""Right passages by page, by lines and by what they contain, and the rank of the first."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from sources.documents import make_pdf

from lmi_cli.evaluation.item import GoldPlace
from lmi_cli.models.load import Loaded
from lmi_cli.sources import Corpus, open_corpus
from lmi_cli.tasks.document import Document, Passage
from lmi_cli.tasks.finder import Ranked
from lmi_cli.tasks.gold import GoldPassages
from lmi_cli.text.stream import TokenStream


def document_of(corpus: Corpus, model: Loaded) -> Document:
    document = Document()
    for block in TokenStream(corpus, model.tokenizer).blocks(document.provenance):
        document.add(block)
    return document


def ranked(document: Document, *numbers: int) -> list[Ranked]:
    bounds = document.borders.tolist()
    return [Ranked(Passage(n, bounds[n], bounds[n + 1]), 1.0) for n in numbers]


@pytest.fixture
def lines(corpus: Callable[..., Corpus], loaded: Loaded) -> Document:
    text = "".join(f"{n}: The grass is green, the sky  is\nblue {n}.\n" for n in range(1, 61))
    return document_of(corpus(text), loaded)


@pytest.fixture
def pages(tmp_path: Path, loaded: Loaded) -> Document:
    path = tmp_path / "pages.pdf"
    sentence = "The sky is blue and the grass is green."
    path.write_bytes(make_pdf([[f"Page {n}.", *[sentence] * 20] for n in ("one", "two", "three")]))
    return document_of(open_corpus([str(path)]), loaded)


def test_by_lines(lines: Document) -> None:
    gold = GoldPassages(lines)
    found = gold.numbers(GoldPlace(lines=(41, 41)))
    (number,) = found
    bounds = lines.borders.tolist()
    begin, end = lines.span(Passage(number, bounds[number], bounds[number + 1]))
    assert "21: The grass" in lines.text[begin:end]  # every sentence takes two lines
    assert gold.numbers(GoldPlace(lines=(1, 120))) == set(range(len(bounds) - 1))
    assert gold.numbers(GoldPlace(lines=(121, 130))) == set()
    assert gold.numbers(GoldPlace(page=1)) == set()


def test_by_what_it_contains_whatever_the_white_space(lines: Document) -> None:
    gold = GoldPassages(lines)
    assert gold.numbers(GoldPlace(passage=re.compile("sky is blue 21"))) == gold.numbers(
        GoldPlace(lines=(41, 42))
    )
    assert gold.numbers(GoldPlace(passage=re.compile("blue 61"))) == set()
    assert gold.numbers(GoldPlace(passage=re.compile("x*"))) == set()


def test_a_page_is_right_as_a_whole(pages: Document) -> None:
    gold = GoldPassages(pages)
    second = gold.numbers(GoldPlace(page=2))
    assert len(second) > 1 and second == gold.numbers(GoldPlace(passage=re.compile("Page two")))
    assert gold.numbers(GoldPlace(page=4)) == set()


def test_a_text_on_a_page_is_on_that_page_of_its_file(tmp_path: Path, loaded: Loaded) -> None:
    sentence = "The sky is blue and the grass is green."
    for name in ("a", "b"):
        pages = [[f"Page {n} of {name}.", *[sentence] * 20] for n in ("one", "two")]
        (tmp_path / f"{name}.pdf").write_bytes(make_pdf(pages))
    paths = [str(tmp_path / f"{name}.pdf") for name in ("a", "b")]
    document = document_of(open_corpus(paths), loaded)
    gold = GoldPassages(document)
    found = gold.numbers(GoldPlace(passage=re.compile("Page two of b")))
    bounds = document.borders.tolist()
    begins = [document.span(Passage(n, bounds[n], bounds[n + 1]))[0] for n in found]
    assert len(found) > 1
    places = {document.provenance.locate(begin) for begin in begins}
    assert {(place.source, place.page) for place in places} == {(1, 2)}


def test_the_rank_counts_the_best_passage_of_each_page(pages: Document) -> None:
    gold = GoldPassages(pages)
    first, second, third = (sorted(gold.numbers(GoldPlace(page=n))) for n in (1, 2, 3))
    order = ranked(pages, third[0], third[1], first[0], second[1], second[0])
    assert gold.rank(order, set(third)) == 1
    assert gold.rank(order, set(first)) == 2
    assert gold.rank(order, set(second)) == 3
    assert gold.rank(order[:2], set(second)) is None


def test_the_rank_of_passages_without_pages(lines: Document) -> None:
    gold = GoldPassages(lines)
    assert gold.rank(ranked(lines, 3, 1, 0), {0, 1}) == 2
