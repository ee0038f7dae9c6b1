"""State files whose checksums are right and whose content is not: refused, or harmless.

What is wrong is either found when the file is restored, or everything that can be done with the
reading still works; nothing else may be raised, least of all out of bounds.
"""

import contextlib
import copy
import functools
import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from reading_helpers import Settings
from torch import Tensor

from lmi_cli.cache import statefile as container
from lmi_cli.errors import LmiError, StateFileError
from lmi_cli.methods import MethodChoice
from lmi_cli.models.load import Loaded
from lmi_cli.sources import Corpus
from lmi_cli.tasks import statefile
from lmi_cli.tasks.plan import MemoryChoice

Corpora = Callable[..., Corpus]
Description = dict[str, Any]
TEXT = "".join(f"{n}: The grass is green. The sky is blue.\n" for n in range(40))
SETTINGS = {
    "whole": (Settings(memory=MemoryChoice()), "The grass is green.\n"),
    "heads": (Settings(memory=MemoryChoice(embeddings=False)), TEXT),
    "both": (Settings(memory=MemoryChoice(store=True)), TEXT),
    "truncated": (Settings(choice=MethodChoice("truncate", {"truncation_side": "middle"})), TEXT),
    "scaled": (Settings(choice=MethodChoice("full", {"rope_scaling": "yarn"})), TEXT),
    "dense": (
        Settings(MethodChoice(given={"dense_layers": "1"}), MemoryChoice(store=True)),
        TEXT,
    ),
    "clusters": (
        Settings(
            choice=MethodChoice(given={"memory_search": "clusters"}),
            memory=MemoryChoice(store=True),
        ),
        TEXT,
    ),
    "eight bits": (Settings(memory=MemoryChoice(store=True, int8=True)), TEXT),
}
USUAL = "both"
"""What other files share with this one is changed in this one only."""
VALUES = [None, True, -1, 0, 1, 2**40, 2**70, 1.5, "", "x", [], [1], {}, {"x": 1}]


class Saved(NamedTuple):
    """A state file, what stands in it, and what stands in the usual one."""

    settings: Settings
    path: Path
    description: Description
    tensors: dict[str, Tensor]
    usual_description: Description
    usual_tensors: dict[str, Tensor]


@pytest.fixture(params=SETTINGS)
def saved(request: pytest.FixtureRequest, model: Loaded, corpus: Corpora, tmp_path: Path) -> Saved:
    def content(name: str) -> tuple[Description, dict[str, Tensor]]:
        settings, text = SETTINGS[name]
        statefile.save(model, settings.read(model, corpus(text)), path)
        description, tensors = container.read(path)
        return description, {name: x.clone() for name, x in tensors.items()}

    path = tmp_path / "a.lmi"
    usual = ({}, {}) if request.param == USUAL else content(USUAL)
    return Saved(SETTINGS[request.param][0], path, *content(request.param), *usual)


def use(model: Loaded, settings: Settings, path: Path) -> bool:
    """Do everything that can be done with a state file; False if it is refused."""
    try:
        header = statefile.header_of(path)
        statefile.changes(header)
        reading = statefile.restore(path, model)
    except StateFileError as error:
        assert str(path) in error.message
        return False
    reading.report()
    assert reading.document.place(reading.document.tokens - 1) is not None
    for source in ("window", "auto", *(["memory"] if "store" in reading.stores else [])):
        with contextlib.suppress(LmiError):  # the prompt may begin otherwise
            # The second token is the first for which the state has grown; more are as that.
            settings.but(max_new_tokens=2).ask(model, reading, "What is green?", source)
    statefile.save(model, reading.fork(), path)
    return True


def at(description: Any, place: tuple[Any, ...]) -> Any:
    """What stands at a place; an error object, equal to nothing, if there is none."""
    try:
        return functools.reduce(operator.getitem, place, description)
    except (LookupError, TypeError) as error:
        return error


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of everything in a description; of a list, the first item and the last."""
    yield place
    items: list[Any] = []
    if isinstance(value, dict):
        items = list(value)
    elif isinstance(value, list):
        items = sorted({0, len(value) - 1}) if value else []
    for item in items:
        yield from leaves(value[item], (*place, item))


@pytest.mark.slow
def test_any_value_of_the_description(model: Loaded, saved: Saved) -> None:
    settings, path, description, tensors, usual, _ = saved
    refused = used = 0
    for place in leaves(description):
        if not place or at(description, place) == at(usual, place):
            continue
        for value in [*VALUES, ...]:  # the last one removes it
            changed = copy.deepcopy(description)
            holder = functools.reduce(operator.getitem, place[:-1], changed)
            if value is ...:
                del holder[place[-1]]
            else:
                holder[place[-1]] = value
            if changed == description:
                continue
            container.write(path, tensors, changed)
            if use(model, settings, path):
                used += 1
            else:
                refused += 1
    assert refused > 0 and (used > 0 or usual)


def reshaped(tensor: Tensor) -> Iterator[Tensor]:
    """The same tensor with another shape, type or value."""
    for dimension, size in enumerate(tensor.shape):
        for kept in {0, 1, size // 2, size - 1} - {size}:
            yield tensor.narrow(dimension, 0, max(kept, 0))
        yield torch.cat((tensor, tensor), dimension)
        yield tensor.flip(dimension)
    yield tensor[None]
    yield tensor.flatten()[:0]
    for dtype in (torch.float16, torch.float64, torch.int8, torch.int64, torch.bool):
        yield tensor.to(dtype)
    if not tensor.is_floating_point():
        for value in (-1, 0, 1, 100, torch.iinfo(tensor.dtype).min, torch.iinfo(tensor.dtype).max):
            yield torch.full_like(tensor, value)
    else:
        yield torch.full_like(tensor, torch.nan)


@pytest.mark.slow
def test_any_tensor(model: Loaded, saved: Saved) -> None:
    settings, path, description, tensors, _, usual = saved
    refused = used = 0
    for name, tensor in tensors.items():
        if (
            name in usual
            and tensor.shape == usual[name].shape
            and tensor.dtype == usual[name].dtype
        ):
            continue
        for other in (*reshaped(tensor), None):
            changed = {n: x for n, x in tensors.items() if n != name}
            if other is not None:
                changed[name] = other
            container.write(path, changed, description)
            if use(model, settings, path):
                used += 1
            else:
                refused += 1
    container.write(path, tensors | {"state.9.window.key": tensors["last"] + 1}, description)
    assert not use(model, settings, path)
    assert refused >= 2 * used


@pytest.mark.skipif(not Path("/proc/kmsg").exists(), reason="needs files that never end")
@pytest.mark.parametrize(
    "path", ["/dev/zero", "/proc/self/mem", "/dev/stdin", "huge", "\0", "x" * 9999]
)
def test_a_source_that_never_ends_is_not_read(
    model: Loaded,
    corpus: Corpora,
    tmp_path: Path,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever path a state file names: no device, and no more of a file than was read of it."""
    saved, (settings, text) = tmp_path / "a.lmi", SETTINGS["whole"]
    statefile.save(model, settings.read(model, corpus(text)), saved)
    if path == "huge":
        path = str(tmp_path / path)
        with Path(path).open("wb") as file:
            file.truncate(2**40)
    described, tensors = container.read(saved)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    described["sources"][0] |= {"path": path, "bytes": 37, "modified_ns": 1, "sha256": "0" * 64}
    container.write(saved, tensors, described)
    monkeypatch.setattr(statefile, "_sha256", lambda *_: pytest.fail("it is hashed"))
    assert len(statefile.changes(statefile.header_of(saved))) == 1
