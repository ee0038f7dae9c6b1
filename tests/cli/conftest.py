"""A tiny chat model, the program run in this process, and the program as a process of its own."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chat_model import save_endless_model, shared_model
from recurrent_models import save_recurrent_model

from lmi_cli.cli import main, runner

PROGRAM = (sys.executable, "-c", "from lmi_cli.cli.main import main; main()")


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def model() -> str:
    return str(shared_model())


@pytest.fixture(scope="session")
def recurrent_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model without attention layers."""
    folder = tmp_path_factory.mktemp("recurrent") / "m"
    return str(save_recurrent_model(folder, "mamba", hidden_size=16))


@pytest.fixture(scope="session")
def hybrid_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with attention layers and recurrent ones."""
    return str(save_recurrent_model(tmp_path_factory.mktemp("hybrid") / "m", "lfm2"))


@pytest.fixture(scope="session")
def endless_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose answers, if sampled, only end at their limit."""
    return str(save_endless_model(tmp_path_factory.mktemp("endless") / "m"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for all tests here, so that a model is checked once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """A short document."""
    path = tmp_path / "notes.txt"
    path.write_text("The grass is green. The sky is blue.\n", encoding="utf-8")
    return path


@pytest.fixture
def long_document(tmp_path: Path) -> Path:
    """One that is longer than the trained length of the model."""
    path = tmp_path / "book.txt"
    lines = [f"{number}: The grass is green. The sky is blue.\n" for number in range(100)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


class _Stream(io.TextIOWrapper):
    """A standard stream over bytes, which may claim to be a terminal."""

    def __init__(self, data: bytes = b"", *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8", write_through=True)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def text(self) -> str:
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode("utf-8", "surrogateescape")


@pytest.fixture
def lmi(
    monkeypatch: pytest.MonkeyPatch, cache: Path, quick_probe: None
) -> Iterator[Callable[..., Result]]:
    """Run the program in this process: ``lmi("qa", path, "question", stdin=b"...")``.

    Without ``stdin``, standard input is a terminal; ``terminal`` makes stdout one.
    """
    monkeypatch.setenv("LMI_CACHE_DIR", str(cache))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: object, stdin: bytes | None = None, terminal: bool = False) -> Result:
        monkeypatch.setattr(sys, "argv", ["lmi", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", _Stream(stdin or b"", terminal=stdin is None))
        out, err = _Stream(terminal=terminal), _Stream()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        code = runner.run(main._dispatch)
        return Result(code, out.text(), err.text())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def start(cache: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Start the program as a process: ``start("qa", ..., env={...}, stdout=...)``."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(
        *arguments: object,
        env: dict[str, str] | None = None,
        python: tuple[str, ...] = (),
        **streams: Any,
    ) -> "subprocess.Popen[bytes]":
        settings = os.environ | {"LMI_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"} | (env or {})
        command = (PROGRAM[0], *python, *PROGRAM[1:], *map(str, arguments))
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running.append(subprocess.Popen(command, env=settings, **pipes | streams))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.communicate()
