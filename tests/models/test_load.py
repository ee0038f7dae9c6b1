"""Placements that cannot be are usage errors, found before anything is loaded."""

from pathlib import Path
from typing import Any

import pytest
from chat_model import shared_model

from lmi_cli.checkpoints.resolve import ModelFiles, resolve
from lmi_cli.errors import UsageError
from lmi_cli.models.load import load
from lmi_cli.models.placement import Placement


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ({"device": "nonsense"}, "device 'nonsense' cannot be used"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
        ({"device": "meta"}, "device 'meta' cannot be used: it holds no data"),
        ({"device_map": "nonsense"}, "device map 'nonsense' is not known"),
        ({"max_memory": {0: "lots"}}, "max-memory 0=lots"),
        ({"quantize": "int3"}, "quantize 'int3' is not known"),
        ({"dtype": "int3"}, "dtype 'int3' is not known"),
    ],
    ids=["device", "no such gpu", "meta", "device map", "max memory", "quantize", "dtype"],
)
def test_a_placement_that_cannot_be(placement: dict[str, Any], message: str) -> None:
    nowhere = ModelFiles("model", Path("/nowhere"), "0", "folder")
    with pytest.raises(UsageError, match=message):
        load(nowhere, Placement(**placement))


@pytest.mark.parametrize(
    "placement",
    [
        Placement(quantize="int8", dtype="float32", device="cpu"),
        Placement(quantize="int8", dtype="bfloat16", device="cpu"),
        Placement(quantize="int8", max_memory={"cpu": "8GiB"}),
    ],
    ids=["float32", "no library", "spread"],
)
def test_weights_that_cannot_be_kept_in_few_bits(cache: Path, placement: Placement) -> None:
    """The tests do without the library in C."""
    with pytest.raises(UsageError, match="weights of few bits are for models that lmi itself runs"):
        load(resolve(str(shared_model())), placement)
