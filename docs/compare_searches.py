"""Searches of the store beside the exact one: what they find, and how long they take.

A document is read once, or restored from a state file with a store. Each question is then answered
from the memory by each search in turn, in one process. Printed are, for each search,

* how many of the ``k`` best keys it scores, of all and weighted by their attention, and how many of
  all keys, for the first questions, in every fourth layer that searches (all tokens of a question
  and three generated ones);
* the processor time of reading a question and of a generated token, and the part of both that is
  spent in the search, as ratios to those of the first search (medians over the questions);
* seconds of processor time that the first two take, and answers that match the expression of the
  question.

    python docs/compare_searches.py DOCUMENT QUESTIONS.json [--questions N] [--tokens N]
        [--searches exact,pruned,clusters,...]

A search may have a share of the keys of its own, as in ``clusters:5``.
"""

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmi_cli.attention import clusters, pruning
from lmi_cli.attention.stored import KeyScores, StoredKeys
from lmi_cli.cache.signature import is_state_file
from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.engine import forward
from lmi_cli.methods import MethodChoice
from lmi_cli.models.load import Loaded, load
from lmi_cli.sources import open_corpus
from lmi_cli.tasks import statefile
from lmi_cli.tasks.asking import AnswerOptions, Asker
from lmi_cli.tasks.events import follow
from lmi_cli.tasks.plan import MemoryChoice, ReadingRequest
from lmi_cli.tasks.reading import Reading, cluster_keys, read
from lmi_cli.text.prompts import Prompts, prompts_of
from lmi_cli.text.stream import TokenStream

FIND = {"pruned": pruning.candidates, "clusters": clusters.candidates}
STRIDE = 4
TOPK = 32


def choice_of(name: str) -> MethodChoice:
    """The method with one of the searches."""
    kind, _, percent = name.partition(":")
    given: dict[str, int | str] = {"memory_search": kind}
    return MethodChoice(given=given | ({"memory_percent": int(percent)} if percent else {}))


class Clock:
    """Notes the processor time of searches, and when the first single token searches."""

    def __init__(self) -> None:
        self.reading = self.writing = 0.0
        self.decoding: float | None = None
        self._search = forward.attend_searched

    def __call__(self, query: Tensor, *given: Any, **more: Any) -> tuple[Tensor, Tensor]:
        """As :func:`lmi_cli.attention.search.attend_searched`."""
        started = time.process_time()
        if query.shape[2] == 1 and self.decoding is None:
            self.decoding = started
        found = self._search(query, *given, **more)
        spent = time.process_time() - started
        if self.decoding is None:
            self.reading += spent
        else:
            self.writing += spent
        return found


def timed(asker: Asker, question: str) -> tuple[str, list[float]]:
    """An answer; seconds for the question and a token, and the seconds of these in the search."""
    usual, clock = forward.attend_searched, Clock()
    forward.attend_searched = clock
    started = time.process_time()
    answer = follow(asker.ask(question))
    ended = time.process_time()
    forward.attend_searched = usual
    decoding, passes = clock.decoding or ended, max(1, answer.tokens - 1)
    return answer.answer, [
        decoding - started, (ended - decoding) / passes, clock.reading, clock.writing / passes,
    ]  # fmt: skip


def asker_of(model: Loaded, reading: Reading, prompts: Prompts, name: str, tokens: int) -> Asker:
    """An asker that answers from the memory."""
    return Asker(model, reading, AnswerOptions(prompts, choice_of(name), "memory", tokens))


class Recall:
    """Watches an exact search, and counts what others would have found."""

    def __init__(self, searches: dict[str, Any]) -> None:
        self.searches = searches
        self.sums = {name: [0.0, 0.0, 0.0] for name in searches}
        self.rows = 0
        self.calls = 0
        self._exact = forward.attend_searched

    def __call__(
        self, query: Tensor, blocks: Any, k: int, search: Any, **more: Any
    ) -> tuple[Tensor, Tensor]:
        """As :func:`lmi_cli.attention.search.attend_searched`."""
        kept = list(blocks)
        self.calls += 1
        if self.calls % STRIDE == 0:
            self._count(query, StoredKeys(kept), k, more["query_start"] - more["nearest"])
        return self._exact(query, kept, k, search, **more)

    def _count(self, query: Tensor, stored: StoredKeys, k: int, last: int) -> None:
        heads, rows = query.shape[1:3]
        seen = (last + torch.arange(rows) + 1 - stored.first).clamp(0, stored.count)
        key = torch.cat([block.key for block in stored.blocks], 2).float()
        scores = query.float() @ key.repeat_interleave(heads // key.shape[1], 1).mT
        scores.masked_fill_(torch.arange(stored.count) >= seen[:, None], -torch.inf)
        best, index = scores.topk(k)
        keys = KeyScores(query, stored)
        weight = best.softmax(-1)
        self.rows += heads * rows
        for name, search in self.searches.items():
            budget = ((seen * search.percent + 99) // 100).clamp(min=k)
            mask = FIND[search.kind](keys, seen, budget)
            hit = mask.gather(-1, index)
            sums = self.sums[name]
            sums[0] += float(hit.float().mean(-1).sum())
            sums[1] += float((weight * hit).sum())
            sums[2] += float((mask.sum(-1) / seen).sum())


def recalls(
    model: Loaded, reading: Reading, prompts: Prompts, names: Sequence[str], questions: list[str]
) -> dict[str, list[float]]:
    """By search: share of the best keys, of their attention, and of all keys scored."""
    layers = len(model.known.facts.layers)
    searches = {}
    for name in names:
        method = choice_of(name).searching(reading.plan.method, layers)
        if method is None or name.startswith("exact"):
            continue
        segments = method.segments(model.known.facts.layers[-1])
        searches[name] = next(x.search for x in segments if x.topk is not None)
    watch = Recall(searches)
    usual, forward.attend_searched = forward.attend_searched, watch
    # All blocks carry their clusters while every search is watched.
    stored = type(reading.stores["store"])
    blocks, stored.key_blocks = (
        stored.key_blocks,
        lambda self, layer, clusters: blocks(  # type: ignore[method-assign]
            self, layer, clusters=True
        ),
    )
    asker = asker_of(model, reading, prompts, "exact", 4)
    for question in questions:
        follow(asker.ask(question))
    forward.attend_searched, stored.key_blocks = usual, blocks  # type: ignore[method-assign]
    return {name: [part / watch.rows for part in sums] for name, sums in watch.sums.items()}


def main() -> None:
    """Read the document, ask the questions, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("document")
    parser.add_argument("questions_file")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("-n", "--tokens", type=int, default=40)
    parser.add_argument("--watched", type=int, default=1)
    parser.add_argument("--searches", default="exact,pruned,clusters,clusters:5")
    parser.add_argument("--int8", action="store_true")
    chosen = parser.parse_args()
    names = chosen.searches.split(",")
    asked = json.loads(Path(chosen.questions_file).read_text(encoding="utf-8"))["questions"]
    asked = asked[:: max(1, len(asked) // chosen.questions)][: chosen.questions]
    model = load(resolve(None))
    prompts = prompts_of(model.tokenizer, model.template, None)
    memory = MemoryChoice("memory", store=True, index=False, int8=chosen.int8)
    path = Path(chosen.document)
    if is_state_file(path):
        reading = statefile.restore(path, model)
    else:
        request = ReadingRequest(prompts, MethodChoice(), memory, chosen.tokens, model.lm.chunk)
        stream = TokenStream(open_corpus([chosen.document]), model.tokenizer)
        reading = follow(read(model, stream, request))
    store, started = reading.stores["store"], time.process_time()
    size = store.nbytes
    follow(cluster_keys(store))
    sys.stdout.write(
        f"{reading.document.tokens:,} tokens, in clusters in "
        f"{time.process_time() - started:.1f} s; store {size / 2**20:,.0f} MiB, clusters "
        f"{(store.nbytes - size) / 2**20:,.1f} MiB\n"
    )
    found = recalls(model, reading, prompts, names, [item["q"] for item in asked[: chosen.watched]])
    times: dict[str, list[list[float]]] = {name: [] for name in names}
    right = dict.fromkeys(names, 0)
    for number, item in enumerate(asked):
        for turn in range(len(names)):
            name = names[(turn + number) % len(names)]
            asker = asker_of(model, reading, prompts, name, chosen.tokens)
            text, seconds = timed(asker, item["q"])
            times[name].append(seconds)
            right[name] += bool(re.search(item["answer"], text, re.IGNORECASE))
            sys.stderr.write(f"{name}: {seconds} {text!r}\n")
    for name in names:
        cells = [f"{100 * part:.1f} %" for part in found.get(name, (1.0, 1.0, 1.0))]
        for column in range(4):
            pairs = zip(times[name], times[names[0]], strict=True)
            ratio = statistics.median(one[column] / base[column] for one, base in pairs)
            cells.append(f"{ratio:.2f}")
        cells += [f"{statistics.median(each[at] for each in times[name]):.2f} s" for at in (0, 1)]
        sys.stdout.write(f"| {name} | {' | '.join(cells)} | {right[name]} of {len(asked)} |\n")


if __name__ == "__main__":
    main()
