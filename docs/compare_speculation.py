"""How much faster ``--speculate suffix`` is than ``none``: the table of ``docs/performance.md``.

    python docs/compare_speculation.py TEXT.txt SOURCE.py [QUESTIONS.json] [--pairs N]
        [--only CASE,...] [--tokens N] [--quantize NAME] [--threads N]

Cases: ``passage`` and ``source``, of which 2,500 and 3,000 characters are to be repeated word for
word; ``question`` and ``poem``, asked about the same passage of TEXT.txt; ``questions`` and
``sampled`` (at temperature 0.8), the questions about the document that stands beside
QUESTIONS.json, one after the other; ``tree`` and ``chain``, summaries of the first 40,000
characters of TEXT.txt written by the model. Both ways run in turn, the first one alternating, and
have to give the same text in as many tokens. Printed are the median and the range of the ratio of
their times of decoding, pair by pair (a pair of ``questions`` or ``sampled`` is one question), the
ratio of all of the time, the ratio of all of the processors' time, and the tokens of a pass. On a
machine on which other programs run, a single ratio of times means little; the time of processors,
which includes that of reading questions, is hardly moved by them if there is one thread.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.engine.sampling import Sampling
from lmi_cli.methods import MethodChoice
from lmi_cli.models.load import Loaded, load
from lmi_cli.models.placement import Placement
from lmi_cli.sources import open_corpus
from lmi_cli.tasks.asking import AnswerOptions, Asker
from lmi_cli.tasks.divided import DividedDocument, read_document
from lmi_cli.tasks.events import follow
from lmi_cli.tasks.plan import ReadingRequest
from lmi_cli.tasks.reading import Reading, read
from lmi_cli.tasks.summary import LENGTHS
from lmi_cli.tasks.writing import WritingOptions, part_tokens, write_summary
from lmi_cli.text.prompts import prompts_of
from lmi_cli.text.stream import TokenStream

MODES = ("none", "suffix")
ASKED = {
    "passage": "Repeat the text above word for word.",
    "source": "Repeat the code above exactly.",
    "question": "Who is the text about, and what do they want?",
    "poem": "Write a long poem about the sea and the wind.",
}
CASES = (*ASKED, "questions", "sampled", "tree", "chain")
TEMPERATURE = 0.8


class Run(NamedTuple):
    """What was generated in one way: the text, its tokens, the time in seconds, and the passes."""

    said: object
    tokens: int
    seconds: float
    per_pass: float
    processor_s: float


Pair = dict[str, Callable[[], Run]]


def read_whole(model: Loaded, path: Path, tokens: int) -> Reading:
    """Read a file with the default method."""
    prompts = prompts_of(model.tokenizer, model.template)
    request = ReadingRequest(prompts, answer_tokens=tokens)
    stream = TokenStream(open_corpus([str(path)]), model.tokenizer)
    return follow(read(model, stream, request, list(ASKED.values())))


def askers(model: Loaded, reading: Reading, tokens: int, temperature: float) -> dict[str, Asker]:
    """One that drafts and one that does not; each keeps its earlier answers to draft from."""
    prompts = prompts_of(model.tokenizer, model.template)
    sampling = Sampling(temperature, seed=3)
    return {
        mode: Asker(
            model,
            reading,
            AnswerOptions(prompts, MethodChoice(), "auto", tokens, sampling, speculate=mode),
        )
        for mode in MODES
    }


def ask(asker: Asker, question: str, index: int) -> Run:
    """Answer a question."""
    before, started = asker.timing.decode_s, time.process_time()
    answer = follow(asker.ask(question, index))
    processor = time.process_time() - started
    per_pass = asker.timing.decode_tok_per_pass or 1.0
    return Run(answer.answer, answer.tokens, asker.timing.decode_s - before, per_pass, processor)


def repeated(model: Loaded, path: Path, question: str, given: argparse.Namespace) -> Iterator[Pair]:
    """The same question about a short text again and again, each time by new askers."""
    reading = read_whole(model, path, given.tokens)
    for _ in range(given.pairs):
        both = askers(model, reading, given.tokens, 0.0)
        yield {mode: partial(ask, both[mode], question, 0) for mode in MODES}


def questions(model: Loaded, path: Path, temperature: float, tokens: int) -> Iterator[Pair]:
    """Each question of a file once; drafts come from earlier answers, too."""
    asked = json.loads(path.read_text(encoding="utf-8"))
    reading = read_whole(model, path.with_name(asked["document"]), tokens)
    both = askers(model, reading, tokens, temperature)
    for index, item in enumerate(asked["questions"]):
        yield {mode: partial(ask, both[mode], item["q"], index) for mode in MODES}


def summaries(model: Loaded, path: Path, strategy: str, pairs: int) -> Iterator[Pair]:
    """The same summary again and again."""
    corpus = open_corpus([str(path)])
    document = follow(read_document(TokenStream(corpus, model.tokenizer)))
    prompts, length = prompts_of(model.tokenizer, model.template, None, ""), LENGTHS["medium"]
    divided = DividedDocument(document, corpus.sources, part_tokens(model.known, prompts, length))

    def write(mode: str) -> Run:
        options = WritingOptions(prompts, length, chunk=model.lm.chunk, speculate=mode)
        started = time.process_time()
        report = follow(write_summary(model, divided, corpus.skipped, strategy, options))
        said = [each.text for each in report.statements]
        timing, processor = report.timing, time.process_time() - started
        per_pass = timing.decode_tok_per_pass or 1.0
        return Run(said, report.generated, timing.decode_s, per_pass, processor)

    for _ in range(pairs):
        yield {mode: partial(write, mode) for mode in MODES}


def compare(name: str, pairs: Iterator[Pair]) -> str:
    """A row of the table.

    Raises:
        AssertionError: A token is another with drafts.
    """
    ratios, tokens, per_pass = list[float](), 0, 1.0
    seconds, processor_s = dict.fromkeys(MODES, 0.0), dict.fromkeys(MODES, 0.0)
    for number, pair in zip(count(), pairs):
        order: Sequence[str] = MODES if number % 2 == 0 else MODES[::-1]
        runs = {mode: pair[mode]() for mode in order}
        none, suffix = runs["none"], runs["suffix"]
        assert none[:2] == suffix[:2], f"{name}: drafts changed {none.said!r} to {suffix.said!r}"
        ratios.append(none.seconds / suffix.seconds)
        for mode in MODES:
            seconds[mode] += runs[mode].seconds
            processor_s[mode] += runs[mode].processor_s
        tokens, per_pass = tokens + none.tokens, suffix.per_pass
    return (
        f"| {name} | {tokens:,} | {per_pass:.2f} | {statistics.median(ratios):.2f}x "
        f"({min(ratios):.2f} to {max(ratios):.2f}) | {seconds['none'] / seconds['suffix']:.2f}x "
        f"| {processor_s['none'] / processor_s['suffix']:.2f}x |\n"
    )


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("questions", type=Path, nargs="?")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--quantize", default="auto")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    chosen = given.only.split(",")
    if wrong := set(chosen) - set(CASES):
        parser.error(f"unknown cases: {', '.join(sorted(wrong))}")
    model = load(resolve(None), Placement(quantize=given.quantize, threads=given.threads))
    sys.stdout.write(
        "| | tokens | tokens a pass | of pairs | of all tokens | of processors' time |\n"
        "|---|---|---|---|---|---|\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        names = ("passage.txt", "beginning.txt", "source.txt")
        passage, beginning, source = (Path(folder, name) for name in names)
        text = given.text.read_text(encoding="utf-8")
        passage.write_text(text[20_000:22_500], encoding="utf-8")
        beginning.write_text(text[:40_000], encoding="utf-8")
        source.write_text(given.source.read_text(encoding="utf-8")[:3_000], encoding="utf-8")
        for case in chosen:
            if case in ASKED:
                path = source if case == "source" else passage
                pairs = repeated(model, path, ASKED[case], given)
            elif case in ("tree", "chain"):
                pairs = summaries(model, beginning, case, given.pairs)
            elif given.questions is None:
                continue
            else:
                temperature = TEMPERATURE if case == "sampled" else 0.0
                pairs = questions(model, given.questions, temperature, given.tokens)
            sys.stdout.write(compare(case, pairs))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
