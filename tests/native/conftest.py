"""The libraries, and the units of a processor, by which the kernels are tested."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from slips import SlipCompiler

from lmi_cli.native import cpu, library, variants
from lmi_cli.native.variants import Variant

BY_TILES = "avx512-bf16"
"""The variant that can multiply by the matrix unit."""


def opened(variant: Variant, folder: Path) -> None:
    """Compute with the library for an instruction set; skip the test where that is not possible."""
    if variant not in variants.runnable():
        missing = ", ".join(sorted(variant.features - cpu.features()))
        pytest.skip(
            f"this processor cannot run the kernels for {variant.name}: it has no {missing}"
        )
    if not (folder / variant.file).exists():
        pytest.skip(f"the kernels for {variant.name} were not compiled with sanitizers")
    library.use(folder / variant.file)


@pytest.fixture(params=variants.compilable(), ids=lambda variant: variant.name)
def each_library(request: pytest.FixtureRequest, built_libraries: Path) -> Iterator[Variant]:
    """Each instruction set of this kind of machine."""
    opened(request.param, built_libraries)
    yield request.param
    library.use(None)


@pytest.fixture(
    params=[
        (variant, tiles)
        for variant in variants.compilable()
        for tiles in ((True, False) if variant.name == BY_TILES else (False,))
    ],
    ids=lambda unit: f"{unit[0].name}-tiles" if unit[1] else unit[0].name,
)
def each_unit(request: pytest.FixtureRequest, built_libraries: Path) -> Iterator[Variant]:
    """Each instruction set, and many tokens by the matrix unit where it has one."""
    variant, tiles = request.param
    opened(variant, built_libraries)
    if library.use_tiles(tiles) != tiles:
        pytest.skip("this processor has no matrix unit (AMX), or the system does not allow it")
    yield variant
    library.use(None)


@pytest.fixture(scope="session")
def slip_compiler(tmp_path_factory: pytest.TempPathFactory) -> SlipCompiler:
    """Compiles what a slip cannot change once for all tests."""
    return SlipCompiler(tmp_path_factory.mktemp("objects"))
