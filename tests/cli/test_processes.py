"""Commands whose work several processes share."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    lines = []
    for number in range(4):
        document = tmp_path / f"{number}.txt"
        document.write_text(f"{number}: The grass is green. The sky is blue.\n" * (50 + 9 * number))
        for asked in ("What is green?", "What is blue?"):
            lines.append({"document": document.name, "question": asked, "answers": ["sky"]})
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--processes", 0], {}, "--processes 0: the range is 1 to 256"),
        (["--processes", 999], {}, "--processes 999: the range is 1 to 256"),
        (["--processes", 2, "--limit", 0], {}, "--limit 0: the smallest is 1"),
        (["--processes", 2, "-"], {}, "standard input can be read by one process only"),
        (["--processes", 3], {"RANK": "0", "WORLD_SIZE": "2"}, "the launcher has started 2"),
        (["--device-map", "auto"], {"RANK": "0", "WORLD_SIZE": "2"}, "each process loads its own"),
    ],
)
def test_what_several_processes_cannot_do(
    lmi: Run,
    model: str,
    questions: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[object],
    environment: dict[str, str],
    said: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = lmi("eval", questions, "-m", model, *arguments, stdin=b"")
    assert result.code == 2 and said in result.err, result.err


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_two_processes_answer_as_one_also_when_one_is_killed(
    lmi: Run, start: Run, model: str, questions: Path, tmp_path: Path
) -> None:
    arguments = ["eval", questions, "-m", model, "-n", 100, "--temperature", 2, "--no-memory"]
    arguments += ["--json", "--predictions"]
    whole = lmi(*arguments, tmp_path / "one")
    assert whole.code == 0, whole.err
    several = [*arguments, tmp_path / "two", "--processes", 2]
    process = start(*several)
    file = tmp_path / "two" / "lm-infinite" / "mine.jsonl"
    until = time.monotonic() + 120
    while not (file.exists() and file.stat().st_size) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(_second_child(process.pid), signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 137 and out == b""
    assert err.decode().count("lmi: process 1 was ended by SIGKILL\n") == 1
    kept = file.read_bytes().splitlines()
    assert 0 < len(kept) < 8 and not file.with_name("results.json").exists()
    process = start(*several)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert _untimed(out) == _untimed(whole.out)
    assert set(kept) <= set(file.read_bytes().splitlines())
    for name in ("mine.jsonl", "run.json"):
        written = tmp_path / "one" / "lm-infinite" / name
        assert file.with_name(name).read_bytes() == written.read_bytes()


def _second_child(number: int) -> int:
    import psutil

    return sorted(child.pid for child in psutil.Process(number).children())[1]


def _untimed(report: str | bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(report)
    del found["memory"]["peak_rss_bytes"]
    del found["methods"]["lm-infinite"]["total_evaluation_time_seconds"]
    return found
