"""How many threads compute. Imports torch and ``cgroups``.

More threads than processors would spend most of their time waiting for each other.
"""

import math
import os

import torch

from lmi_cli import cgroups

# As many as there are processor cores, or what OMP_NUM_THREADS says.
_DEFAULT = torch.get_num_threads()


def use_threads(count: int | None = None) -> None:
    """Compute with ``count`` threads from now on, by default with :func:`useful_threads`.

    This number also applies to the library in C, once it is opened.
    """
    torch.set_num_threads(useful_threads() if count is None else count)


def useful_threads() -> int:
    """The number of processor cores that this process may keep busy.

    Cores that it must not use do not count, nor do those beyond the quota of its container.
    """
    limits = [_DEFAULT]
    if hasattr(os, "sched_getaffinity"):
        limits.append(len(os.sched_getaffinity(0)))
    quota = cgroups.processors()
    if quota is not None:
        limits.append(math.ceil(quota))
    return max(1, min(limits))
