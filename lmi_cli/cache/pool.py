"""Memory for stores, which grow with the document: RAM up to a budget, files beyond it."""

import errno
import math
import os
import tempfile
from pathlib import Path

import torch

from lmi_cli.errors import ResourceError


class BlockPool:
    """Allocates tensors in memory up to a budget, and mapped to files beyond it.

    A file is unlinked as soon as it is mapped, so nothing is left behind however the process ends.

    Args:
        budget_bytes: Bytes in RAM or on the device; None has no limit.
        folder: Where files go; None is the system's place for temporary files.
    """

    def __init__(self, budget_bytes: int | None = None, folder: Path | None = None) -> None:
        self.budget_bytes = budget_bytes
        self.folder = folder
        self.ram_bytes = 0
        self.file_bytes = 0

    def fresh(self) -> "BlockPool":
        """A pool with the same budget, from which nothing has been taken."""
        return BlockPool(self.budget_bytes, self.folder)

    def empty(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """Allocate an uninitialised tensor, on the CPU if it does not fit the budget.

        Raises:
            ResourceError: It does not fit the disk either.
        """
        count = math.prod(shape)
        size = count * dtype.itemsize
        if self.budget_bytes is None or self.ram_bytes + size <= self.budget_bytes:
            self.ram_bytes += size
            return torch.empty(shape, dtype=dtype, device=device)
        handle, name = tempfile.mkstemp(prefix="lmi-", suffix=".store", dir=self.folder)
        try:
            # Allocated now: writing to a mapped hole on a full disk would kill the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, max(size, 1))
            else:
                os.truncate(handle, size)
            tensor = torch.from_file(name, shared=True, size=count, dtype=dtype)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise ResourceError(
                f"no space for {size:,} more bytes of keys and values in {Path(name).parent}",
                hint="set TMPDIR to a larger disk, or read without a store",
            ) from error
        finally:
            os.close(handle)
            Path(name).unlink(missing_ok=True)
        self.file_bytes += size
        return tensor.view(shape)
