"""Placements that cannot be are usage errors, found before anything is loaded."""

from pathlib import Path

import pytest

from lmi_cli.errors import UsageError
from lmi_cli.models.load import Placement, load
from lmi_cli.models.store import ModelFiles


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (Placement(device="nonsense"), "device 'nonsense' cannot be used"),
        (Placement(device="cuda:99"), "device 'cuda:99' cannot be used"),
        (Placement(device="meta"), "device 'meta' cannot be used: it holds no data"),
        (Placement(device_map="nonsense"), "device map 'nonsense' is not known"),
        (Placement(max_memory={0: "lots"}), "max-memory 0=lots"),
    ],
    ids=["device", "no such gpu", "meta", "device map", "max memory"],
)
def test_a_placement_that_cannot_be(placement: Placement, message: str) -> None:
    nowhere = ModelFiles("model", Path("/nowhere"), "0", "folder")
    with pytest.raises(UsageError, match=message):
        load(nowhere, placement)
