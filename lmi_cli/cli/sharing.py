"""Commands whose work several processes share: started here, or by a launcher."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from lmi_cli.cli.console import message
from lmi_cli.cli.progress import show_cursor
from lmi_cli.cli.request import Request
from lmi_cli.errors import LmiError, UsageError
from lmi_cli.processes import Processes, place, starting

_MOST = 256
_INTERRUPTED, _KILLED = 130, 9

Asked = TypeVar("Asked", bound=Request)


@contextlib.contextmanager
def joined(request: Asked) -> Iterator[tuple[Asked, Processes]]:
    """The request as this process is to carry it out, and the processes that share it.

    An error of one process is raised in that one only, with its rank; in others, the program ends.

    Raises:
        UsageError: The number of processes is not that of the launcher, or cannot be.
        ResourceError: The other processes cannot be reached.
    """
    count, here = request.processes, place.place()
    if count is not None and not 1 <= count <= _MOST:
        raise UsageError(f"--processes {count}: the range is 1 to {_MOST}")
    if here is None:
        if place.alone_though_launched() and not request.quiet:
            message(
                "accelerate launch has started one process only: with --cpu, it leaves others to "
                "MPI; --processes N and torchrun start several"
            )
        yield request, Processes()
        return
    if count not in (None, here.count) and "processes" not in request.standing:
        raise UsageError(
            f"--processes {count}, but the launcher has started {here.count}",
            hint="leave --processes out",
        )
    if request.device_map is not None or request.max_memory is not None:
        raise UsageError(
            "--device-map and --max-memory spread one model, but each process loads its own",
            hint="leave them out, or use one process",
        )
    if here.folder is not None:
        starting.end_with_parent(here.folder)
    from lmi_cli.processes.launched import Launched

    processes = Launched(here)
    try:
        yield _own(request, here), processes
        processes.leave()
    except KeyboardInterrupt:
        if here.rank:
            raise SystemExit(_INTERRUPTED) from None
        raise
    except BrokenPipeError:
        raise
    except LmiError as error:
        if not processes.fails_first():
            raise SystemExit(error.exit_code) from None
        said = f"process {here.rank} of {here.count}: {error.message}"
        raise type(error)(said, hint=error.hint) from error
    except Exception as error:
        if not processes.fails_first():
            raise SystemExit(LmiError.exit_code) from None
        error.add_note(f"in process {here.rank} of {here.count}")
        raise


def _own(request: Asked, here: place.GroupPlace) -> Asked:
    """The request of one process: its device and its share of the memory; only the first speaks."""
    from lmi_cli.cli.choices import default_memory_budget
    from lmi_cli.models.placement import device_of

    budget = request.memory_budget
    return replace(
        request,
        device=device_of(request.device, here.local_rank),
        memory_budget=default_memory_budget() // here.local_count if budget is None else budget,
        quiet=request.quiet or here.rank > 0,
        verbose=request.verbose and here.rank == 0,
    )


def require_files(request: Request, sources: Sequence[str]) -> None:
    """Refuse standard input as a source of several processes, each of which opens the sources.

    Raises:
        UsageError: It is among the sources.
    """
    several = place.place() is not None or (request.processes or 1) > 1
    if several and "-" in sources:
        raise UsageError(
            "standard input can be read by one process only", hint="name a file instead"
        )


def done_by_others(request: Request) -> bool:
    """Start the processes that the user asked for, if any, and wait until they have done it all.

    To be called when everything has been checked that can be before a model is loaded.

    Raises:
        SystemExit: A process has failed, and has said why.
    """
    if place.place() is not None or (request.processes or 1) < 2:
        return False
    try:
        code = starting.start(request.processes or 1, request.threads)
    except starting.EndedBySignalError as error:
        show_cursor()  # the process that has hidden it cannot do so
        message(f"lmi: {error}")
        if error.number == _KILLED:
            message("     hint: the memory may have run out; try fewer processes")
        raise SystemExit(128 + error.number) from None
    if code:
        raise SystemExit(code)
    return True
