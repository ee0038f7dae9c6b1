"""Processes that are started, learn of their place, and are ended."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lmi_cli.processes import Processes, place, starting
from lmi_cli.processes.place import GroupPlace

WAITS = "import time; time.sleep(60)"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Start processes, each of which runs the code of its rank."""

    def start(*codes: str) -> int:
        chosen = f"import os; exec({list(codes)!r}[int(os.environ['RANK'])])"
        monkeypatch.setattr(sys, "orig_argv", ["python", "-c", chosen])
        return starting.start(len(codes))

    return start


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WORLD_SIZE": "1", "RANK": "0"}, None),
        ({"WORLD_SIZE": "2"}, None),
        ({"WORLD_SIZE": "2", "RANK": "2"}, None),
        ({"WORLD_SIZE": "two", "RANK": "1"}, None),
        (
            {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
            (3, 4, 1, 2),
        ),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, (1, 2, 0, 1)),
    ],
)
def test_the_place_is_that_of_the_launcher(
    environment: dict[str, str], expected: Sequence[int] | None
) -> None:
    assert place.place(environment) == (None if expected is None else GroupPlace(*expected))
    assert not place.is_supervised(environment)


def test_a_process_that_is_started_learns_of_its_place() -> None:
    own = GroupPlace(1, 2, 1, 2, "folder")
    assert place.place(own.environment()) == own
    assert place.is_supervised(own.environment())


def test_it_is_seen_that_accelerate_has_started_one_process_only() -> None:
    told = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}
    assert place.alone_though_launched(told)
    assert not place.alone_though_launched(told | {"WORLD_SIZE": "2", "RANK": "0"})
    assert not place.alone_though_launched({})


def test_threads_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda number: range(9), raising=False)
    monkeypatch.setattr("lmi_cli.cgroups.processors", lambda: 6.5)
    assert [place.threads_of_each(count) for count in (1, 2, 3, 8)] == [7, 3, 2, 1]


def test_all_end_well(started: Callable[..., int], tmp_path: Path) -> None:
    say = f"open(os.path.join({str(tmp_path)!r}, os.environ['RANK']), 'w').write("
    say += "os.environ['LOCAL_WORLD_SIZE'] + ' ' + os.environ['WORLD_SIZE'])"
    assert started(say, say, say) == 0
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == ["3 3"] * 3


def test_when_one_fails_the_others_are_ended(started: Callable[..., int]) -> None:
    before = time.monotonic()
    assert started(WAITS, "raise SystemExit(4)") == 4
    assert time.monotonic() - before < 30


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_one_that_is_killed_is_named(started: Callable[..., int]) -> None:
    with pytest.raises(starting.EndedBySignalError, match="process 1 was ended by SIGKILL") as e:
        started(WAITS, "os.kill(os.getpid(), 9)")
    assert (e.value.rank, e.value.number) == (1, 9)
    assert starting.signal_name(99) == "signal 99"


def test_none_outlives_the_one_that_has_started_it(tmp_path: Path) -> None:
    code = "from lmi_cli.processes import starting; import sys, time\n"
    code += "starting.end_with_parent(sys.argv[1]); time.sleep(60)"
    folder = tmp_path / "folder"
    folder.mkdir()
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.close()  # as the system does when a process is killed
        assert process.wait(30) == 129
    assert not folder.exists()


def test_one_process_does_everything() -> None:
    alone = Processes()
    assert list(alone.share([1, 2])) == [1, 2]
    assert (alone.done(3), alone.done()) == (3, 3)
    assert list(alone.share([])) == [] and alone.done() == 0
    with alone.first():
        assert alone.collect("a") == ["a"] and list(alone.waiting()) == []
