"""Settings for all tests."""

import os

# Each worker has a processor to itself; torch asks for the number when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path

import compilers
import pytest
import torch
from filelock import FileLock
from hypothesis import settings

from lmi_cli.engine import probe
from lmi_cli.native import compiling, cpu, library, variants

# Other programs may need the processors too, so no example has a time limit.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# Most tests are not about the library in C, which computes in bfloat16; those that are ask for it.
os.environ.setdefault("LMI_NATIVE", "0")

# Nor are they about what the configuration file of whoever runs them says.
os.environ["LMI_CONFIG"] = ""


@pytest.fixture(scope="session", autouse=True)
def _freed_memory_goes_back() -> Iterator[None]:
    """One process runs models of all shapes; what one frees is of little use to the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "keep_freed_memory", lambda: None)
        yield


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def built_libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the libraries in C for this kind of machine, of the sources as they are.

    All workers share it. An error of the compiler fails, whichever library it concerns. Without a
    compiler, they are those that were installed, as from a wheel.
    """
    if not variants.compilable():
        pytest.skip("there are no kernels for this kind of machine")
    if (reason := compilers.missing()) is not None:
        if (fault := compiling.fault(variants.compilable()[-1])) is not None:
            pytest.skip(f"{fault}: {reason}")
        return compiling.FOLDER
    if given := os.environ.get("LMI_TEST_KERNELS"):  # made by tests/native/test_sanitized.py
        return Path(given)
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "kernels"
    with FileLock(f"{folder}.lock"):
        if not (folder / compiling.MANIFEST).exists():
            folder.mkdir(exist_ok=True)
            assert compiling.compile_libraries(folder) == {}
    return folder


@pytest.fixture(scope="session")
def built_library(built_libraries: Path) -> Path:
    """The library in C for this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LMI_NATIVE", raising=False)
        variant = variants.chosen()
    if isinstance(variant, str):
        pytest.skip(f"the library in C cannot run here: {variant}")
    return built_libraries / variant.file


@pytest.fixture
def c_library(built_library: Path) -> Iterator[None]:
    """Compute with the library in C."""
    library.use(built_library)
    yield
    library.use(None)


@pytest.fixture
def native(built_library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let commands use the library in C where they would, as they do for users."""
    monkeypatch.setattr(compiling, "FOLDER", built_library.parent)
    monkeypatch.delenv("LMI_NATIVE", raising=False)
    yield
    library.use(None)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LMI_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def quick_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure what the machine can do by little work: no test depends on how fast it is."""
    monkeypatch.setattr(probe, "_SECONDS", 0.0)
    monkeypatch.setattr(probe, "_READ_BYTES", 1 << 20)
    monkeypatch.setattr(probe, "_GEMM_SHAPES", ((64, 64, 64), (64, 128, 64)))


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound GGUF file of a few kilobytes."""
    from model_builders import tiny_gguf as write

    return write(tmp_path_factory.mktemp("gguf") / "Tiny.Q8_0.gguf")
