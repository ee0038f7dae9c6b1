"""Settings for all tests."""

import os

import pytest
import torch

# Tests have caches of their own, and would compile the library for each of them. Those that are
# about it, and those of the default model, ask for it.
os.environ.setdefault("LMI_NATIVE", "0")


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)
