"""The units of a processor by which the library computes."""

from collections.abc import Iterator

import pytest

from lmi_cli.native import library


@pytest.fixture(params=["vectors", "tiles"])
def each_unit(request: pytest.FixtureRequest, c_library: None) -> Iterator[None]:
    """Many tokens by vector instructions, then by the matrix unit where there is one."""
    tiles = request.param == "tiles"
    if tiles and not library.has_tiles():
        pytest.skip("the processor has no AMX")
    assert library.opened().lmi_tiles(tiles) == tiles
    yield
    library.opened().lmi_tiles(library.has_tiles())
