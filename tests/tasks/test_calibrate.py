"""Calibration: the made-up facts, and the default model's heads."""

import json
import random
from pathlib import Path

import pytest

from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.models import heads
from lmi_cli.models.load import Loaded
from lmi_cli.tasks.calibrate import HEADS, LEAST_RANK, calibrate, synthetic_facts
from lmi_cli.tasks.events import follow


def test_no_fact_answers_the_question_of_another() -> None:
    made = synthetic_facts(random.Random(0))
    questions = [question for fact in made for question in fact.questions]
    assert len(set(questions)) == len(questions)
    assert len({fact.sentence for fact in made}) == len(made)
    assert synthetic_facts(random.Random(0)) == made != synthetic_facts(random.Random(1))


def test_a_model_is_ranked_by_what_its_heads_find(loaded: Loaded) -> None:
    found = follow(calibrate(loaded, chunk=64))
    ranks = [rank for _, rank in found.ranks]
    assert ranks == sorted(ranks, reverse=True)
    assert all(0 < rank <= 1 for rank in ranks)
    assert len(found.retrieval.heads) == sum(rank >= LEAST_RANK for rank in ranks) <= HEADS
    assert follow(calibrate(loaded, chunk=64)) == found


def test_heads_are_cached_and_damage_is_ignored(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path))
    assert heads.known_heads(loaded.files) is None
    retrieval = heads.RetrievalHeads((heads.AttentionHead(1, 2),), 40)
    path = heads.remember_heads(loaded.files, retrieval, [(heads.AttentionHead(1, 2), 0.5)])
    assert path is not None
    assert heads.known_heads(loaded.files) == retrieval
    stored = json.loads(path.read_bytes())
    for damage in ({"heads": None}, {"heads": [[1]]}, {"heads": [["x", 2]]}, {"distance": None}):
        path.write_text(json.dumps(stored | {"value": stored["value"] | damage}))
        assert heads.known_heads(loaded.files) is None


@pytest.mark.model
def test_the_heads_of_the_default_model_are_shipped() -> None:
    retrieval = heads.known_heads(resolve(None))
    assert retrieval is not None
    assert {(2, 4), (17, 3), (17, 5), (8, 0)} <= set(retrieval.heads)
