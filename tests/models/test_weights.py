"""Weights are read one at a time, in slices, and in another dtype where that is asked for."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lmi_cli.errors import ModelError
from lmi_cli.models import weights
from lmi_cli.models.weights import Weights

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_SLICE_BYTES", 24)


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("wanted", DTYPES)
def test_values(tmp_path: Path, stored: torch.dtype, wanted: torch.dtype) -> None:
    tensors = {
        "matrix": torch.randn(7, 5).to(stored),
        "vector": torch.randn(3).to(stored),
        "number": torch.tensor(2.5, dtype=stored),
        "nothing": torch.empty(0, 4, dtype=stored),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    found = Weights(tmp_path, wanted)
    assert set(found) == set(tensors) and len(found) == 4
    for name, tensor in tensors.items():
        assert found[name].dtype == wanted
        assert torch.equal(found[name], tensor.to(wanted))


@pytest.mark.parametrize("place", [0, 17, 34])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("wanted", [torch.bfloat16, torch.float32])
def test_values_that_are_not_finite(
    tmp_path: Path, place: int, value: float, wanted: torch.dtype
) -> None:
    tensor = torch.zeros(35)
    tensor[place] = value
    save_file({"a.weight": tensor}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"a\.weight contains values that are not finite"):
        Weights(tmp_path, wanted)["a.weight"]


def test_large_values_whose_sum_overflows_are_finite(tmp_path: Path) -> None:
    tensor = torch.full((35,), 3e38)
    save_file({"a": tensor}, tmp_path / "model.safetensors")
    assert torch.equal(Weights(tmp_path, torch.float32)["a"], tensor)


@pytest.mark.parametrize("wanted", [torch.bfloat16, torch.float32])
def test_a_file_that_shrinks_meanwhile(tmp_path: Path, wanted: torch.dtype) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(35)}, path)
    found = Weights(tmp_path, wanted)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(OSError, match="has become shorter"):
        found["a"]
