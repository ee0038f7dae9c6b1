"""What compiles the libraries, and how a library that is not the right one is recognised."""

import subprocess
import sys
from pathlib import Path

import pytest
from compilers import missing, needs_gcc

from lmi_cli.native import compiling, cpu, variants
from lmi_cli.native.variants import VARIANTS, Variant

BEST, PLAIN, OLDEST = VARIANTS[:3]
QUICK = ("-O0", *compiling.FLAGS[1:])
"""For libraries that nothing computes with: at -O3 one takes twenty seconds."""
X86 = (BEST, PLAIN, OLDEST)
supported = pytest.mark.skipif(
    not variants.compilable(), reason="there are no kernels for this kind of machine"
)

# Writes the name of the library into it, unless asked for an option that it does not know.
COMPILER = """
refused = {refused!r}
if refused in sys.argv:
    sys.exit("unknown option " + refused)
path = sys.argv[sys.argv.index("-o") + 1]
open(path, "w").write(path.rpartition("/")[2])
"""


def compiler(folder: Path, program: str) -> None:
    path = folder / "cc"
    path.write_text(f"#!{sys.executable}\nimport sys\n{program}\n")
    path.chmod(0o755)


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for libraries, on a machine for which there are three of them."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    monkeypatch.setattr(compiling, "FOLDER", folder)
    monkeypatch.setattr(variants, "compilable", lambda: X86)
    monkeypatch.setattr(cpu, "features", lambda: BEST.features)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LMI_ISA", raising=False)
    monkeypatch.delenv("LMI_NATIVE", raising=False)
    return folder


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_no_compiler(kernels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(compiling.CannotCompileError, match="no C compiler"):
        compiling.compile_libraries()
    assert compiling.main() == 1
    assert capsys.readouterr().err.endswith("cannot be compiled: there is no C compiler\n")
    assert not names_in(kernels)
    assert compiling.fault(BEST) == "the library in C has not been compiled"


def test_another_kind_of_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(compiling.CannotCompileError, match="no code"):
        compiling.compile_libraries(tmp_path)


def test_a_compiler_that_fails_leaves_the_old_libraries(kernels: Path) -> None:
    compiler(kernels.parent, "sys.exit('cannot do that')")
    (kernels / BEST.file).write_bytes(b"old")
    with pytest.raises(compiling.CannotCompileError, match="cc failed: cannot do that"):
        compiling.compile_libraries()
    assert names_in(kernels) == {BEST.file}
    assert (kernels / BEST.file).read_bytes() == b"old"


def test_a_compiler_that_does_not_end(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(kernels.parent, "import time; time.sleep(60)")
    monkeypatch.setattr(compiling, "_LIMIT_S", 0.2)
    with pytest.raises(compiling.CannotCompileError, match=r"cc took longer than 0\.2 s"):
        compiling.compile_libraries()
    assert not names_in(kernels)


def test_one_library_for_each_instruction_set(
    kernels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler(kernels.parent, COMPILER.format(refused=""))
    assert compiling.main() == 0
    written = capsys.readouterr()
    assert written.out.splitlines() == [str(kernels / variant.file) for variant in X86]
    assert not written.err
    for variant in X86:
        assert (kernels / variant.file).read_text() == variant.file
        assert compiling.fault(variant) is None
    manifest = (kernels / compiling.MANIFEST).read_text().splitlines()
    sources = Path(compiling.__file__).parent
    ingredients = {path.name for end in ("*.c", "*.h") for path in sources.glob(end)}
    ingredients |= {"compiling.py", "variants.py"}
    assert {line.split("  ")[1] for line in manifest} == {v.file for v in X86} | ingredients
    assert names_in(kernels) == {v.file for v in X86} | {compiling.MANIFEST}
    assert compiling.will_compute()


def test_what_the_compiler_does_not_know_is_left_out(
    kernels: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are made, and the fastest of them is used unless another is asked for."""
    compiler(kernels.parent, COMPILER.format(refused="-mavx512bf16"))
    (kernels / BEST.file).write_bytes(b"old")
    assert compiling.main() == 0
    written = capsys.readouterr()
    assert written.err == "avx512-bf16: cc failed: unknown option -mavx512bf16\n"
    assert written.out.splitlines() == [str(kernels / v.file) for v in (PLAIN, OLDEST)]
    assert names_in(kernels) == {PLAIN.file, OLDEST.file, compiling.MANIFEST}
    assert BEST.file not in (kernels / compiling.MANIFEST).read_text()
    assert compiling.fault(PLAIN) is None
    assert compiling.chosen() == PLAIN
    assert compiling.will_compute()
    monkeypatch.setenv("LMI_ISA", "avx512-bf16")
    assert compiling.chosen() == BEST
    assert compiling.fault(BEST) == "the library in C has not been compiled"
    assert not compiling.will_compute()


def test_a_library_that_was_not_compiled_with_the_others_is_damaged(kernels: Path) -> None:
    compiler(kernels.parent, COMPILER.format(refused=""))
    (kernels / BEST.file).write_bytes(b"old")
    assert compiling.compile_libraries(chosen=[PLAIN, OLDEST]) == {}
    assert compiling.fault(BEST) == "the library in C is damaged"
    assert compiling.fault(OLDEST) is None


@supported
@needs_gcc
def test_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a program, from another folder, without what lmi depends on."""
    program = (
        f"import sys; sys.path.insert(0, {str(compiling.FOLDER.parent.parent)!r});"
        "from lmi_cli.native import compiling, variants;"
        f"folder = compiling.Path({str(tmp_path)!r});"
        f"compiling.compile_libraries(folder, variants.compilable()[-1:], {QUICK})"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True, cwd=tmp_path)
    monkeypatch.setattr(compiling, "FOLDER", tmp_path)
    assert compiling.changed_since(variants.compilable()[-1]) == []


@supported
@needs_gcc
def test_programs_that_compile_at_once_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = variants.compilable()[-1]
    program = (
        "from pathlib import Path; from lmi_cli.native import compiling, variants;"
        f"folder = Path({str(tmp_path)!r});"
        f"compiling.compile_libraries(folder, variants.compilable()[-1:], {QUICK})"
    )
    running = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait(timeout=300) for process in running] == [0, 0, 0]
    assert names_in(tmp_path) == {variant.file, compiling.MANIFEST}
    monkeypatch.setattr(compiling, "FOLDER", tmp_path)
    assert compiling.changed_since(variant) == []


@supported
@needs_gcc
@pytest.mark.skipif(missing("clang") is not None, reason=f"needs clang: {missing('clang')}")
@pytest.mark.parametrize("variant", variants.compilable(), ids=lambda variant: variant.name)
def test_clang_understands_the_sources(variant: Variant, tmp_path: Path) -> None:
    """Without a warning, as gcc does."""
    for name in ("gcc", "clang"):
        flags = (*compiling.FLAGS, *variant.flags, "-Wall", "-Wextra", "-Werror", "-O1")
        command = [name, *flags, *map(str, compiling.SOURCES), "-o", str(tmp_path / name), "-lm"]
        subprocess.run(command, check=True)


@pytest.fixture
def built(built_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library that may be changed."""
    for path in (built_library, built_library.with_name(compiling.MANIFEST)):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(compiling, "FOLDER", tmp_path)
    return tmp_path / built_library.name


def test_whatever_has_changed_since_is_named(built: Path) -> None:
    variant = next(v for v in VARIANTS if v.file == built.name)
    assert compiling.changed_since(variant) == []
    manifest = built.with_name(compiling.MANIFEST)
    lines = manifest.read_text().splitlines(keepends=True)
    ends = [line for line in lines if line.endswith((".c\n", ".h\n"))]

    manifest.write_text("".join(line for line in lines if line != ends[1]))
    assert compiling.changed_since(variant) == [ends[1].split()[1]]
    manifest.write_text("".join([*lines, f"{'0' * 64}  gone.c\n"]))
    assert compiling.changed_since(variant) == ["gone.c"]
    assert compiling.fault(variant) == "the library in C is out of date (gone.c)"
    manifest.write_bytes(b"\xff\x00 no manifest")
    assert built.name in compiling.changed_since(variant)
    manifest.write_text("".join(lines))

    for other in VARIANTS:  # which need not be there
        if other != variant:
            built.with_name(other.file).unlink(missing_ok=True)
    assert compiling.changed_since(variant) == []
    sound = built.read_bytes()
    built.write_bytes(sound[:-1])
    assert compiling.changed_since(variant) == [built.name]
    built.write_bytes(sound[:5000] + bytes([sound[5000] ^ 1]) + sound[5001:])
    assert compiling.fault(variant) == "the library in C is damaged"
    built.unlink()
    with pytest.raises(OSError, match=built.name):
        compiling.changed_since(variant)
