"""Turns exceptions into exit codes: the one place where errors become output."""

import contextlib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType

from lmi_cli import memory
from lmi_cli.cli.console import message
from lmi_cli.errors import LmiError, ResourceError
from lmi_cli.processes import place

_BUG, _INTERRUPTED, _TERMINATED = 1, 130, 143
_LIMITS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class TerminationError(BaseException):
    """SIGTERM was received."""


def run(command: Callable[[], None]) -> int:
    """Run a command and return its exit code.

    Every foreseeable failure becomes one line on stderr, with its traceback if ``LMI_DEBUG=1``.
    """
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, _terminate)
        signal.signal(signal.SIGINT, signal.SIG_IGN if place.is_supervised() else _interrupt)
    code = _outcome(command)
    if not _flush() and code == 0:
        code = ResourceError.exit_code
    return code


def _outcome(command: Callable[[], None]) -> int:
    try:
        command()
    except LmiError as error:
        return _fail(error)
    except BrokenPipeError:  # the reader has all it wants
        return 0
    except KeyboardInterrupt:
        message("lmi: interrupted")
        return _INTERRUPTED
    except TerminationError:
        return _TERMINATED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except Exception as error:
        if memory.ran_out(error):
            return _fail(ResourceError("out of memory", hint="try a smaller --window or --chunk"))
        if isinstance(error, OSError) and error.errno in _LIMITS:
            return _fail(ResourceError(f"{error.filename or 'the output'}: {error.strerror}"))
        _show_traceback()
        message(f"lmi: this is a bug in lmi: {type(error).__name__}: {error}")
        return _BUG
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    # A second Ctrl-C ends the program at once, without any clean-up.
    signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> None:
    raise TerminationError


def _fail(error: LmiError) -> int:
    if os.environ.get("LMI_DEBUG") == "1":
        _show_traceback()
    message(f"lmi: {error.message}")
    if error.hint:
        message(f"     hint: {error.hint}")
    return error.exit_code


def _show_traceback() -> None:
    for line in traceback.format_exc().splitlines():
        message(line)


def _flush() -> bool:
    """Flush stdout; return whether everything was written.

    A stdout that fails is replaced by the null device, as Python would flush it again at exit.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            message(f"lmi: the output cannot be written: {error}")
            return False
    return True
