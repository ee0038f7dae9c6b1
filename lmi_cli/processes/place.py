"""The place of this process among several, from the variables that launchers set.

Those of ``torchrun`` and ``accelerate launch``, and of MPI, are known. Imports the standard
library, psutil and ``cgroups``.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

from lmi_cli import cgroups

GROUP = "LMI_PROCESS_GROUP"
"""Names the folder in which processes that ``lmi`` itself has started find each other."""
THREADS = "OMP_NUM_THREADS"

_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_COUNT = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_LOCAL_RANK = (
    "LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK",
)  # fmt: skip
_LOCAL_COUNT = (
    "LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MV2_COMM_WORLD_LOCAL_SIZE",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class GroupPlace:
    """Which of several processes this one is.

    Attributes:
        rank: Its number among all, from 0.
        count: Number of all.
        local_rank: Its number among those of this machine.
        local_count: Number of those.
        folder: Where processes that ``lmi`` has started find each other; None for other launchers.
    """

    rank: int
    count: int
    local_rank: int
    local_count: int
    folder: str | None = None

    def environment(self) -> dict[str, str]:
        """The variables by which a process that is started learns of its place."""
        numbers = {
            "RANK": self.rank,
            "WORLD_SIZE": self.count,
            "LOCAL_RANK": self.local_rank,
            "LOCAL_WORLD_SIZE": self.local_count,
        }
        return {name: str(number) for name, number in numbers.items()} | {GROUP: self.folder or ""}


def place(environment: Mapping[str, str] = os.environ) -> GroupPlace | None:
    """The place of this process; None if it is alone."""
    count = _number(environment, _COUNT, 1)
    rank = _number(environment, _RANK, -1)
    if count < 2 or not 0 <= rank < count:
        return None
    local_count = _number(environment, _LOCAL_COUNT, 1)
    local_rank = _number(environment, _LOCAL_RANK, 0)
    return GroupPlace(rank, count, local_rank, local_count, environment.get(GROUP) or None)


def is_supervised(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether another process of ``lmi`` has started this one, and passes signals on to it."""
    return bool(environment.get(GROUP))


def alone_though_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether ``accelerate launch`` was to start several processes and has started only this one.

    With ``--cpu``, it leaves that to MPI.
    """
    told = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_PORT" in environment
    return told and place(environment) is None


def threads_of_each(count: int) -> int:
    """Threads for each of some processes, which share the processors that this one may use."""
    import psutil

    limits = [psutil.cpu_count(logical=False) or os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):
        limits.append(len(os.sched_getaffinity(0)))
    quota = cgroups.processors()
    if quota is not None:
        limits.append(math.ceil(quota))
    return max(1, min(limits) // count)


def _number(environment: Mapping[str, str], names: tuple[str, ...], default: int) -> int:
    for name in names:
        if (value := environment.get(name, "")).isdecimal():
            return int(value)
    return default
