"""Answers from a store whose keys are in clusters, with state files and without."""

from collections.abc import Callable
from pathlib import Path

import pytest
from reading_helpers import Settings

from lmi_cli.cache import statefile as container
from lmi_cli.errors import StateFileError, UsageError
from lmi_cli.methods import MethodChoice
from lmi_cli.models.load import Loaded
from lmi_cli.sources import Corpus
from lmi_cli.tasks import statefile
from lmi_cli.tasks.clustering import prepare_search
from lmi_cli.tasks.events import Note
from lmi_cli.tasks.plan import MemoryChoice
from lmi_cli.tasks.reading import Reading

Corpora = Callable[..., Corpus]
TEXT = "".join(f"{n}: The grass is green. The sky is blue.\n" for n in range(120))


def searching(kind: str, **given: int) -> Settings:
    choice = MethodChoice(given={"memory_search": kind, **given})
    return Settings(choice=choice, memory=MemoryChoice("memory", store=True, index=False))


EXACT, CLUSTERS = searching("exact"), searching("clusters")


def notes(model: Loaded, reading: Reading, settings: Settings) -> list[str]:
    events = prepare_search(model, reading, settings.options(model))
    return [event.text for event in events if isinstance(event, Note)]


def test_the_keys_are_put_in_clusters_when_they_are_read(model: Loaded, corpus: Corpora) -> None:
    events = CLUSTERS.events(model, corpus(TEXT))
    assert any(isinstance(e, Note) and "tokens in clusters" in e.text for e in events)
    reading = CLUSTERS.read(model, corpus(TEXT))
    assert reading.stores["store"].unclustered == 0
    parameters = reading.report().parameters
    assert (parameters["memory_search"], parameters["memory_percent"]) == ("clusters", 10)
    assert notes(model, reading, CLUSTERS) == []
    plain = EXACT.read(model, corpus(TEXT))
    assert plain.report().parameters["memory_search"] == "exact"
    assert plain.stores["store"].nbytes < reading.stores["store"].nbytes


@pytest.mark.parametrize("kind", ["pruned", "clusters"])
def test_where_nothing_is_left_out_answers_are_those_of_the_exact_search(
    model: Loaded, corpus: Corpora, kind: str
) -> None:
    reading = EXACT.read(model, corpus(TEXT))
    wanted = EXACT.ask(model, reading)
    everything, few = searching(kind, memory_percent=100), searching(kind, memory_topk=1)
    assert everything.ask(model, reading).answer == wanted.answer
    found = few.ask(model, reading)
    assert found.answered_from == "memory" and found.visible.attended == 1


@pytest.mark.parametrize("int8", [False, True])
def test_clusters_are_in_the_file_and_questions_use_them(
    model: Loaded, corpus: Corpora, tmp_path: Path, int8: bool
) -> None:
    settings = CLUSTERS.but(memory=MemoryChoice("memory", store=True, int8=int8))
    path, reading = tmp_path / "a.lmi", settings.read(model, corpus(TEXT))
    statefile.save(model, reading, path)
    restored = statefile.restore(path, model)
    assert restored.stores["store"].unclustered == 0
    for kind in ("exact", "pruned", "clusters"):
        asked = searching(kind, memory_topk=3)
        assert asked.ask(model, restored) == asked.ask(model, reading)
    assert notes(model, restored, settings) == []


def test_a_file_without_clusters_gets_them_before_the_first_question(
    model: Loaded, corpus: Corpora, tmp_path: Path
) -> None:
    path = tmp_path / "a.lmi"
    statefile.save(model, EXACT.read(model, corpus(TEXT)), path)
    reading = statefile.restore(path, model)
    assert notes(model, reading, EXACT) == notes(model, reading, searching("pruned")) == []
    (note,) = notes(model, reading, CLUSTERS)
    assert note.startswith("putting the keys of ")
    assert reading.stores["store"].unclustered == 0
    assert notes(model, reading, CLUSTERS) == []
    whole = CLUSTERS.read(model, corpus(TEXT))
    assert CLUSTERS.ask(model, reading) == CLUSTERS.ask(model, whole)
    statefile.save(model, reading, path)  # it remains a file without clusters
    assert "clusters" not in container.read_description(path)["stores"]["store"]


def test_an_interrupted_reading_goes_on_with_its_search(
    model: Loaded, corpus: Corpora, tmp_path: Path
) -> None:
    whole, path, half = CLUSTERS.read(model, corpus(TEXT)), tmp_path / "half.lmi", list[Reading]()
    task = CLUSTERS.task(model, corpus(TEXT), after_chunk=half.append)
    for event in task:
        if not isinstance(event, Note) and event.done > 900:
            break
    statefile.save(model, half[-1], path, complete=False)
    task.close()
    for settings in (CLUSTERS, EXACT):
        earlier = statefile.restore(path, model)
        again = settings.read(model, corpus(TEXT), earlier=earlier)
        assert again.stores["store"].unclustered == 0
        assert CLUSTERS.ask(model, again) == CLUSTERS.ask(model, whole)
        done = tmp_path / "done.lmi"
        statefile.save(model, again, done)
        assert statefile.restore(done, model).stores["store"].unclustered == 0


def test_what_is_appended_is_put_in_clusters_too(
    model: Loaded, corpus: Corpora, tmp_path: Path
) -> None:
    path = tmp_path / "a.lmi"
    statefile.save(model, CLUSTERS.read(model, corpus(TEXT)), path)
    longer = EXACT.read(model, corpus(TEXT), earlier=statefile.restore(path, model), append=True)
    assert longer.stores["store"].clusters and longer.stores["store"].unclustered == 0
    statefile.save(model, longer, path)
    assert statefile.restore(path, model).report().parameters["memory_search"] == "clusters"


def test_a_file_whose_search_is_unknown_is_refused(
    model: Loaded, corpus: Corpora, tmp_path: Path
) -> None:
    path = tmp_path / "a.lmi"
    statefile.save(model, CLUSTERS.read(model, corpus(TEXT)), path)
    description, tensors = container.read(path)
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    for name, value in (("memory_search", "guess"), ("memory_percent", 0), ("memory_search", 3)):
        changed = dict(description["plan"]["searching"], **{name: value})
        container.write(
            path, kept, {**description, "plan": {**description["plan"], "searching": changed}}
        )
        with pytest.raises(StateFileError, match="is damaged"):
            statefile.restore(path, model)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"memory_search": "guess"}, "unknown value 'guess' for --memory-search"),
        ({"memory_percent": 5}, "an exact search scores all"),
        ({"memory_search": "clusters", "memory_percent": 0}, "the smallest is 1"),
        ({"memory_search": "pruned", "memory_percent": 101}, "the range is 1 to 100"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_anything_is_read(
    given: dict[str, int | str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        MethodChoice(given=given)
