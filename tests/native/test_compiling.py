"""What compiles the library, and how a library that is not the right one is recognised."""

import subprocess
import sys
from pathlib import Path

import pytest

from lmi_cli.native import compiling

supported = pytest.mark.skipif(not compiling.is_supported(), reason="there is no code for this")


def compiler(folder: Path, program: str) -> None:
    path = folder / "cc"
    path.write_text(f"#!{sys.executable}\nimport sys\n{program}\n")
    path.chmod(0o755)


@supported
def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(compiling.CannotCompileError, match="no C compiler"):
        compiling.compile_library(tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_kind_of_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(compiling.CannotCompileError, match="no code"):
        compiling.compile_library(tmp_path)


@supported
def test_a_compiler_that_fails_leaves_the_old_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler(tmp_path, "sys.exit('cannot do that')")
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / compiling.LIBRARY).write_bytes(b"old")
    with pytest.raises(compiling.CannotCompileError, match="cc failed: cannot do that"):
        compiling.compile_library(folder)
    assert [path.name for path in folder.iterdir()] == [compiling.LIBRARY]
    assert (folder / compiling.LIBRARY).read_bytes() == b"old"


@supported
def test_by_hand(tmp_path: Path) -> None:
    """As a program, from another folder, without what lmi depends on."""
    program = (
        f"import sys; sys.path.insert(0, {str(compiling.FOLDER.parent.parent)!r});"
        "from lmi_cli.native import compiling;"
        f"compiling.compile_library(compiling.Path({str(tmp_path)!r}))"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True, cwd=tmp_path)
    assert compiling.changed_since(tmp_path) == []


@supported
def test_programs_that_compile_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from lmi_cli.native import compiling;"
        f"compiling.compile_library(Path({str(tmp_path)!r}))"
    )
    running = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait(timeout=300) for process in running] == [0, 0, 0]
    assert compiling.changed_since(tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == {compiling.LIBRARY, compiling.MANIFEST}


@pytest.fixture
def built(built_library: Path, tmp_path: Path) -> Path:
    """A folder with a library that may be changed."""
    for name in (compiling.LIBRARY, compiling.MANIFEST):
        (tmp_path / name).write_bytes(built_library.with_name(name).read_bytes())
    return tmp_path


def test_whatever_has_changed_since_is_named(built: Path) -> None:
    assert compiling.changed_since(built) == []
    manifest = built / compiling.MANIFEST
    lines = manifest.read_text().splitlines(keepends=True)

    manifest.write_text("".join(lines[:3] + lines[4:]))
    assert compiling.changed_since(built) == [lines[3].split()[1]]
    manifest.write_text("".join([*lines, f"{'0' * 64}  gone.c\n"]))
    assert compiling.changed_since(built) == ["gone.c"]
    manifest.write_bytes(b"\xff\x00 no manifest")
    assert compiling.LIBRARY in compiling.changed_since(built)
    manifest.write_text("".join(lines))

    library = built / compiling.LIBRARY
    sound = library.read_bytes()
    library.write_bytes(sound[:-1])
    assert compiling.changed_since(built) == [compiling.LIBRARY]
    library.write_bytes(sound[:5000] + bytes([sound[5000] ^ 1]) + sound[5001:])
    assert compiling.changed_since(built) == [compiling.LIBRARY]
    library.unlink()
    with pytest.raises(OSError, match=compiling.LIBRARY):
        compiling.changed_since(built)
