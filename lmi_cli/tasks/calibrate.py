"""Calibration: the retrieval heads of a model, found with synthetic facts in seconds.

Each head alone ranks the passages of a synthetic text by the attention that a question pays to
them, compared with questions without content. The heads that rank the answers best are the
retrieval heads.
"""

import random
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmi_cli.engine.engine import Engine, Ids, Read
from lmi_cli.engine.heads import AttentionHead, RetrievalHeads
from lmi_cli.engine.retrieval import attention_shares, key_index, read_question
from lmi_cli.errors import ModelError
from lmi_cli.methods import LMInfinite
from lmi_cli.methods.lm_infinite import LEAST_SINKS
from lmi_cli.models.heads import remember_heads
from lmi_cli.models.load import Loaded
from lmi_cli.tasks.events import Note, Progress
from lmi_cli.text.prompts import prompts_of

EMPTY_QUESTIONS = ("What is it?", "What does it say?", "Which one is it?", "Who is it?")
"""Questions without content: the attention they pay does not depend on what is asked."""

HEADS = 10
DISTANCE = 512
LEAST_RANK = 0.4
"""Lowest mean reciprocal rank of the answers at which a head counts as a retrieval head."""

_FACTS = 48
_ROUNDS = 2
_WINDOW = 2048


_TOWNS = (
    "Alderley Brackwater Corvedale Dunmore Eastholm Farrowby Glenside Harwick Inverlea Kestrel "
    "Lowmarsh Mossford Northgate Oakhampton Pellworm Quarry Ravenstone Silverton Thornbury Upwell "
    "Velden Westermere Yarrow Zennor"
)
_NAMES = (
    "Abigail Bertram Cecily Dominic Esther Frederick Gwendolen Horace Isobel Jasper Katherine "
    "Leopold Miriam Nathaniel Ophelia Percival Rosalind Sebastian Theodora Ulric Veronica Winifred "
    "Xavier Yolanda"
)
_MONTHS = "January February March April May June July August September October November December"
# A job, and a question about it in other words.
_JOBS = (
    ("a clockmaker", "Who repaired watches?"),
    ("a baker", "Who made bread?"),
    ("a surveyor", "Who measured land?"),
    ("a violinist", "Who played music?"),
    ("a lighthouse keeper", "Who warned ships of the rocks?"),
    ("a botanist", "Who studied plants?"),
    ("a glass blower", "Who made bottles?"),
    ("a court reporter", "Who wrote down what was said at trials?"),
    ("a beekeeper", "Who sold honey?"),
    ("a cartographer", "Who drew maps?"),
    ("a ship's doctor", "Who treated sick sailors?"),
    ("a bookbinder", "Who put covers on volumes?"),
)
_PLACES = (
    "under the third stair; behind the blue portrait; inside the broken drum; "
    "beneath the stone lion; in the flour bin; above the stable door; in a hollow apple tree; "
    "between two ledgers; at the bottom of the well; in the lining of a coat; "
    "under the church organ; behind the weir"
)
_CARGOES = (
    ("copper wire", "Which boat brought metal?"),
    ("dried figs", "Which boat brought fruit?"),
    ("roof slates", "Which boat brought something to cover houses with?"),
    ("sheep's wool", "Which boat brought something to spin and knit with?"),
    ("lamp oil", "Which boat brought fuel for lights?"),
    ("piano strings", "Which boat brought parts of instruments?"),
    ("salt herring", "Which boat brought fish?"),
    ("tea chests", "Which boat brought something to drink?"),
    ("oak barrels", "Which boat brought what wine is kept in?"),
    ("window panes", "Which boat brought glass?"),
    ("goose feathers", "Which boat brought what pillows are filled with?"),
    ("printed calico", "Which boat brought cloth?"),
)
_FILLER = (
    "The weather had been mild for the season, and nobody expected it to last.",
    "People came and went, as they always do, and little was said about it afterwards.",
    "There was a long silence, in which only the clock in the hall could be heard.",
    "It was agreed that the matter could wait until everyone had slept on it.",
    "A path led down to the river, where the grass had grown tall over the summer.",
    "The letter had been read so often that it was falling apart along its folds.",
    "Some of the neighbours had opinions of their own, which they kept to themselves.",
    "On most evenings the lamps were lit early and supper was served at seven.",
    "The road was in poor repair, and the journey took longer than it should have.",
    "No one could remember who had first suggested it, or why it had seemed wise.",
    "Towards the end of the month the accounts were settled and the rooms aired.",
    "The dog slept by the fire and took no interest in what was going on around it.",
)


@dataclass(frozen=True, slots=True)
class Fact:
    """A synthetic fact: a sentence, and questions that it answers."""

    sentence: str
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Calibration:
    """The result of calibration.

    Attributes:
        retrieval: The retrieval heads; there may be none.
        ranks: The best heads, with the mean reciprocal rank that each alone gives the answers.
    """

    retrieval: RetrievalHeads
    ranks: list[tuple[AttentionHead, float]]


def synthetic_facts(generator: random.Random) -> list[Fact]:
    """Facts of four kinds about towns and people, no two alike."""
    towns, names = _TOWNS.split(), _NAMES.split()
    places, months = _PLACES.split("; "), _MONTHS.split()
    generator.shuffle(towns)
    generator.shuffle(names)
    quarter = _FACTS // 4
    found = []
    for index in range(quarter):
        name, other = names[index], names[index + quarter]
        town, far = towns[index], towns[index + quarter]
        found += [
            Fact(
                f"In those years {name} earned a living as {_JOBS[index][0]} in {town}.",
                (f"What did {name} work as?", _JOBS[index][1]),
            ),
            Fact(
                f"The key that {other} had lost was found {places[index]}.",
                (f"Where was the key of {other}?",),
            ),
            Fact(
                f"The barge from {far} carried nothing but {_CARGOES[index][0]}.",
                (f"What did the barge from {far} bring?", _CARGOES[index][1]),
            ),
            Fact(
                f"In {town} the yearly fair is held on the {index + 3}th of {months[index]}.",
                (f"When does the fair of {town} take place?",),
            ),
        ]
    generator.shuffle(found)
    return found


def calibrate(loaded: Loaded, *, chunk: int) -> Generator[Progress, None, Calibration]:
    """Find the retrieval heads of a model, in its attention layers.

    Raises:
        ModelError: It has no attention layers.
    """
    if not loaded.known.facts.layers:
        raise ModelError(
            f"{loaded.files.id} has no attention layers, so no retrieval heads",
            hint="nothing needs to be done: its passages are found by shared words",
        )
    window = min(_WINDOW, loaded.lm.trained_length)
    method = LMInfinite(window=window, sinks=LEAST_SINKS, ceiling=window)
    engine = Engine(loaded.lm, method, chunk)
    # Layers with a sliding window of their own cannot see the document.
    layers = [
        spec.index
        for spec in engine.layers
        if spec.native_window is None or spec.native_window > window
    ]
    query_heads, _ = loaded.lm.attention_heads
    every = tuple(AttentionHead(layer, head) for layer in layers for head in range(query_heads))
    candidates = RetrievalHeads(every, min(DISTANCE, window))
    reciprocal = np.zeros(len(every))
    asked = tokens = 0
    for round_number in range(_ROUNDS):
        text = _Text(loaded, engine, candidates, random.Random(round_number))
        for event in text.read():
            yield Progress(tokens + event.tokens)
        tokens += int(text.borders[-1])
        empty = torch.stack([text.shares(question) for question in EMPTY_QUESTIONS]).mean(0)
        for target, fact in enumerate(text.facts):
            for question in fact.questions:
                score = text.shares(question) - empty
                rank = (score > score[:, target : target + 1]).sum(1) + 1
                reciprocal += 1 / rank.numpy()
                asked += 1
    reciprocal /= asked
    best = np.argsort(-reciprocal, kind="stable")[:HEADS].tolist()
    ranks = [(every[at], round(float(reciprocal[at]), 3)) for at in best]
    chosen = tuple(head for head, rank in ranks if rank >= LEAST_RANK)
    return Calibration(RetrievalHeads(chosen, candidates.distance), ranks)


def find_heads(model: Loaded, chunk: int) -> Generator[Progress | Note, None, RetrievalHeads]:
    """Find the retrieval heads of a model and cache them; there may be none."""
    yield Note("finding the retrieval heads of this model; this is done once per model")
    found = yield from calibrate(model, chunk=chunk)
    remember_heads(model.files, found.retrieval, found.ranks)
    if not found.retrieval.heads:
        yield Note("this model has no retrieval heads: passages are found by words and embeddings")
    return found.retrieval


class _Text:
    """A synthetic text: each passage states one fact among sentences without content."""

    def __init__(
        self,
        loaded: Loaded,
        engine: Engine,
        candidates: RetrievalHeads,
        generator: random.Random,
    ) -> None:
        self.facts = synthetic_facts(generator)
        passages: list[list[int]] = []
        for number, fact in enumerate(self.facts):
            sentences = generator.sample(_FILLER, 3)
            sentences.insert(generator.randrange(4), fact.sentence)
            lead = "\n\n" if number else ""
            passages.append(loaded.tokenizer.encode(lead + " ".join(sentences)).ids.tolist())
        self.borders = np.cumsum([0, *map(len, passages)])
        self._ids = _ids([token for part in passages for token in part])
        self._prompt = prompts_of(loaded.tokenizer, loaded.template).after_stream()
        self._engine, self._candidates, self._state = engine, candidates, engine.start()
        first = len(self._prompt.prefix) + LEAST_SINKS
        self._index = key_index(candidates.heads, *loaded.lm.attention_heads, first=first)
        self._state.recording = (self._index,)

    def read(self) -> Iterator[Read]:
        """Read the text, and record the keys of the candidates."""
        return self._engine.read(self._state, [_ids(self._prompt.prefix), self._ids])

    def shares(self, question: str) -> Tensor:
        """The result of :func:`attention_shares` for a question, ``[candidates, passages]``."""
        state, tail = self._state.fork(), _ids(self._prompt.tail(question))
        borders = self.borders + len(self._prompt.prefix)
        queries, _ = read_question(self._engine, state, tail, self._index, self._candidates)
        return attention_shares(queries, self._index, borders)


def _ids(tokens: Sequence[int]) -> Ids:
    return np.array(tokens, dtype=np.int32)
