"""From an exception to an exit code: the one place where errors become output."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from lmi_cli.cli.console import one_line
from lmi_cli.errors import LmiError, ResourceError

_INTERRUPTED, _TERMINATED = 130, 143


class TerminationError(BaseException):
    """SIGTERM arrived; clean up and go."""


def run(command: Callable[[], None]) -> int:
    """Run a command and return its exit code.

    Every foreseeable failure becomes one line on stderr; with ``LMI_DEBUG=1`` it keeps its
    traceback.
    """
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, _terminate)
        signal.signal(signal.SIGINT, _interrupt)
    try:
        command()
        _flush()
    except LmiError as error:
        return _fail(error)
    except BrokenPipeError:
        # The reader has what it wanted. Python must not find the pipe broken again at exit.
        _to_devnull(sys.stdout)
        return 0
    except KeyboardInterrupt:
        _say("interrupted")
        return _INTERRUPTED
    except TerminationError:
        return _TERMINATED
    except MemoryError:
        return _fail(ResourceError("out of memory", hint="try a smaller --window or --chunk"))
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    # A second Ctrl-C does not wait for any clean-up.
    signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> None:
    raise TerminationError


def _fail(error: LmiError) -> int:
    if os.environ.get("LMI_DEBUG") == "1":
        raise error
    _say(error.message)
    if error.hint:
        _say(f"hint: {error.hint}", prefix="     ")
    return error.exit_code


def _say(text: str, prefix: str = "lmi: ") -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        line = prefix + one_line(text) + "\n"
        encoding = sys.stderr.encoding or "ascii"
        sys.stderr.write(line.encode(encoding, "backslashreplace").decode(encoding))


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _to_devnull(stream: object) -> None:
    with contextlib.suppress(Exception):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())  # type: ignore[attr-defined]
