"""Blocks in memory up to a budget, in files beyond it, and nothing left behind."""

import errno
import os
from pathlib import Path

import pytest
import torch

from lmi_cli.cache.pool import BlockPool
from lmi_cli.errors import ResourceError

CPU = torch.device("cpu")


def test_beyond_the_budget_blocks_are_files(tmp_path: Path) -> None:
    pool = BlockPool(100, tmp_path)
    inside = pool.empty((5, 5), torch.float32, CPU)
    outside = pool.empty((2, 3, 4), torch.bfloat16, CPU)
    assert (pool.ram_bytes, pool.file_bytes) == (100, 48)
    for block in (inside, outside):
        block.fill_(3)
        assert float(block.float().sum()) == 3 * block.numel()
    assert outside.shape == (2, 3, 4)
    assert list(tmp_path.iterdir()) == []


def test_no_budget_means_memory() -> None:
    pool = BlockPool()
    pool.empty((1000,), torch.float32, CPU)
    assert (pool.ram_bytes, pool.file_bytes) == (4000, 0)


def test_a_full_disk_is_an_error_not_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ResourceError, match="no space for 4,000 more bytes"):
        BlockPool(0, tmp_path).empty((1000,), torch.float32, CPU)
    assert list(tmp_path.iterdir()) == []
