"""The program as a process: signals, closed streams, encodings, what is imported and when."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SLOW = pytest.mark.slow
Start = Callable[..., "subprocess.Popen[bytes]"]
# Sampled, so that it does not end in a loop either.
ENDLESS = ("-n", 9_000_000, "--temperature", 1)


def finish(process: "subprocess.Popen[bytes]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, (out or b"").decode(), (err or b"").decode()


HEAVY = "torch", "transformers", "numpy", "accelerate", "pypdf"


@pytest.mark.parametrize(
    "code",
    [
        "import lmi_cli",
        "import lmi_cli.cli.main",
        "import lmi_cli.cli.app",
        "import lmi_cli.sources",
        "import sys, lmi_cli.cli.app as a; sys.argv = ['lmi', 'qa', '--help']\n"
        "try: a.run()\nexcept SystemExit: pass",
        "import sys, lmi_cli.cli.app as a; sys.argv = ['lmi', 'qa', 'absent', 'Why?']\n"
        "try: a.run()\nexcept Exception as error: assert error.exit_code == 2",
        "import lmi_cli.checkpoints.cached as s; s.list_models()",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    code += f"\nimport sys; sys.exit(' '.join(set({HEAVY}) & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_reads_sources_is_not_imported_for_help() -> None:
    code = (
        "import sys, lmi_cli.cli.app as a; sys.argv = ['lmi', '--help']\n"
        "try: a.run()\nexcept SystemExit: pass\n"
        "unused = {'lmi_cli.sources', 'pathspec', 'statistics'}\n"
        "sys.exit(' '.join(unused & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_help_into_a_pipe_that_closes(start: Start) -> None:
    process = start("--help")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(300) == 0
    assert process.stderr.read() == b""


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks into /proc")
def test_an_answer_into_a_pipe_that_closes(
    start: Start, endless_model: str, document: Path
) -> None:
    """The program stops at once; its answer would take hours."""
    process: Any = start("qa", document, "Why?", "-m", endless_model, *ENDLESS)
    assert process.stdout.read(1)
    before = cpu_seconds(process.pid)
    process.stdout.close()
    assert wait_and_count(process) - before < 1.0
    assert process.returncode == 0
    assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    "closed",
    ["0>&- >&- 2>&-", *(pytest.param(one, marks=SLOW) for one in ("0>&-", ">&-", "2>&-"))],
)
def test_streams_closed_from_the_start(
    model: str, document: Path, tmp_path: Path, cache: Path, closed: str
) -> None:
    target = tmp_path / "result"
    program = f'"{sys.executable}" -c "from lmi_cli.cli.main import main; main()"'
    script = f'{program} summarize "$1" -m "$2" -n 3 {closed} -o "$3"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", str(document), model, str(target)],
        capture_output=True,
        check=False,
        env=os.environ | {"LMI_CACHE_DIR": str(cache)},
    )
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"Traceback" not in done.stderr
    assert target.read_bytes()


def test_a_closed_stdout_is_no_failure(start: Start) -> None:
    code = "import os; os.close(1); from lmi_cli.cli.main import main; main()"
    command = [sys.executable, "-c", code, "models"]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [("--help",), ("models",)])
def test_a_full_disk_behind_stdout(start: Start, arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        code, _, err = finish(start(*arguments, stdout=full))
    assert code == 5
    assert "No space left" in err and "Traceback" not in err


def test_a_file_limit_leaves_no_partial_file(
    start: Start, model: str, document: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "report.json"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (256, 256))

    arguments = ["qa", document, "Why?", "-m", model, "-n", 3, "--json", "-o", target]
    code, out, err = finish(start(*arguments, preexec_fn=limit))
    assert (code, out) == (5, "")
    assert f"{target} cannot be written: File too large" in err
    assert list(target.parent.iterdir()) == []


def test_a_file_limit_leaves_no_state_file(
    start: Start, model: str, long_document: Path, tmp_path: Path
) -> None:
    """The limit is reached while tensors are written, where the error is not one of Python's."""
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "book.lmi"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    process = start("read", long_document, "-o", target, "-m", model, preexec_fn=limit)
    code, out, err = finish(process)
    assert (code, out) == (5, ""), err
    assert "File too large" in err and "Traceback" not in err
    assert list(target.parent.iterdir()) == []


HARDENED = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONWARNINGS": "error"}


@SLOW
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("perplexity",), "\\xb1"),
        (("qa", "-q", "Pourquoi là ?", "-q", "Why?", "-n", "2"), "# Pourquoi l\\xe0 ?"),
        (("summarize", "-n", "2"), ""),
        (("read",), ""),
        (("inspect",), "na\\xefve.txt"),
    ],
    ids=lambda given: given[0] if isinstance(given, tuple) else "",
)
def test_ascii_output_and_hardened_python(
    start: Start, model: str, tmp_path: Path, command: tuple[str, ...], said: str
) -> None:
    """Nothing depends on ``assert``, on a warning staying a warning, or on the encoding."""
    path = tmp_path / "naïve.txt"
    path.write_text("Déjà vu.", encoding="utf-8")
    name, *options = command
    if name == "read":
        options = ["-o", str(tmp_path / "naïve.lmi")]
    arguments = (name, path, *options, "-m", model)
    code, out, err = finish(start(*arguments, env=HARDENED, python=("-O",)))
    assert code == 0, err
    assert said in out and out.isascii() and err.isascii()


@SLOW
def test_json_is_the_same_on_an_ascii_stream(start: Start, model: str, tmp_path: Path) -> None:
    path = tmp_path / "naïve.txt"
    path.write_text("Déjà vu.", encoding="utf-8")
    _, out, _ = finish(start("perplexity", path, "-m", model, "--json", env=HARDENED))
    assert json.loads(out)["sources"][0]["origin"] == str(path)


def children_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


def endless_pdf(path: Path) -> Path:
    """A PDF of many pages, so that its worker is busy for long."""
    from sources.documents import make_pdf

    path.write_bytes(make_pdf([[f"Page {number}. " * 40] for number in range(1500)]))
    return path


def wait_for(event: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not event():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def cpu_seconds(pid: int) -> float:
    """What a process has computed; unlike the time of day, the same on a busy machine."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_and_count(process: "subprocess.Popen[bytes]") -> float:
    """Wait until a process ends; return how long it has computed, its children included."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def mapped(pid: int, library: str) -> bool:
    return library in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks into /proc")
@pytest.mark.parametrize(
    ("phase", "number"),
    [
        ("import", signal.SIGINT),
        ("reading", signal.SIGTERM),
        ("decode", signal.SIGINT),
        pytest.param("import", signal.SIGTERM, marks=SLOW),
        pytest.param("reading", signal.SIGINT, marks=SLOW),
        pytest.param("prefill", signal.SIGINT, marks=SLOW),
        pytest.param("prefill", signal.SIGTERM, marks=SLOW),
        pytest.param("decode", signal.SIGTERM, marks=SLOW),
    ],
)
def test_signals_end_the_program_at_once(
    start: Start,
    model: str,
    endless_model: str,
    document: Path,
    tmp_path: Path,
    phase: str,
    number: signal.Signals,
) -> None:
    code, said = (130, "lmi: interrupted\n") if number == signal.SIGINT else (143, "")
    process: Any
    if phase == "import":
        process = start("qa", document, "Why?", "-m", model)
        wait_for(lambda: mapped(process.pid, "libtorch_cpu"))
    elif phase == "reading":
        pdf = endless_pdf(tmp_path / "long.pdf")
        process = start("perplexity", pdf, "-m", model)
        wait_for(lambda: children_of(process.pid))
        time.sleep(0.5)
    elif phase == "prefill":
        process = start("perplexity", "-", "-m", model, stdin=subprocess.PIPE)
        # Three times what a pipe holds, so that most has been taken out of it.
        process.stdin.write(b"The grass is green. The sky is blue.\n" * 5_000)
        process.stdin.flush()
    else:
        process = start("qa", document, "Why?", "-m", endless_model, *ENDLESS)
        assert process.stdout.read(1)
    workers = children_of(process.pid)
    before = cpu_seconds(process.pid)
    process.send_signal(number)
    computed = wait_and_count(process) - before
    assert process.returncode == code
    err = process.stderr.read().decode()
    assert "Traceback" not in err and err.endswith(said)
    if not workers:  # their time is counted too
        assert computed < 1.0
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


# A command that is busy, and then busy with putting things in order, which Ctrl-C does not stop.
STUCK = """
import sys
import time
from lmi_cli.cli import runner

def command():
    try:
        print("working", flush=True)
        time.sleep(600)
    finally:
        try:
            print("tidying", flush=True)
            time.sleep(600)
        except KeyboardInterrupt:
            time.sleep(600)

sys.exit(runner.run(command))
"""


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (signal.SIGINT, signal.SIGINT, 130),
        (signal.SIGTERM, signal.SIGTERM, 143),
        (signal.SIGINT, signal.SIGTERM, 143),
    ],
)
def test_a_second_signal_does_not_wait_for_the_first(
    first: signal.Signals, second: signal.Signals, code: int
) -> None:
    process: Any = subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        for number, line in ((first, b"working\n"), (second, b"tidying\n")):
            assert process.stdout.readline() == line
            process.send_signal(number)
        assert process.wait(120) == code
        assert b"Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_on_a_terminal(start: Start, model: str, tmp_path: Path) -> None:
    """A bar of one line that is gone in the end, a visible cursor, nothing hostile let through."""
    import fcntl
    import pty
    import struct
    import termios

    path = tmp_path / "a\x1b]0;owned\x07[red].txt"
    path.write_text("The sky is blue. \x1b]0;owned\x07\n" * 400)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = {"TERM": "xterm-256color"}
    arguments = ["qa", path, "-q", "\x1b]0;owned\x07Why?", "-q", "Who?", "-m", model, "-n", 3]
    process = start(*arguments, env=env, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    with open(ours, "rb", buffering=0) as screen:  # noqa: PTH123 - a descriptor
        try:
            while part := screen.read(4096):
                seen += part
        except OSError:  # how the end of a pseudo-terminal looks on Linux
            pass
    assert process.wait(60) == 0
    text = seen.decode()
    assert "owned" in text and "\x1b]0;" not in text and "\x07" not in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") > 0
    assert "reading" in text and "tok/s" in text
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.rpartition("\x1b[?25h")[2])
    assert "the model answered from passages" in shown and "reading" not in shown
    plain = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", text)]
    bars = [line for line in plain if "reading" in line]
    assert bars and all(len(line) <= 80 for line in bars)
