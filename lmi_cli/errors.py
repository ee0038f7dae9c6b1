"""Every error that a user can cause or meet, each with its exit code. Imports nothing.

::

    LmiError              1
    ├── UsageError        2   the command line asks for something impossible
    ├── NoInputError      3   nothing readable among the sources
    ├── ModelError        4   model refused, corrupt, unsupported or not available
    ├── ResourceError     5   a limit of memory, disk or time was reached
    ├── PartialError      6   only part of the input was used, under --strict
    ├── StateFileError    7   a state file is corrupt or does not match the request
    └── RequirementError  8   a result does not meet what the command line requires of it
"""


class LmiError(Exception):
    """A foreseeable failure, shown to the user as one line.

    Args:
        message: What happened, and with which input.
        hint: What the user can do about it; printed on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(LmiError):
    """The command line asks for something impossible."""

    exit_code = 2


class NoInputError(LmiError):
    """None of the sources gave any text."""

    exit_code = 3


class ModelError(LmiError):
    """The model is refused, corrupt, unsupported or not available."""

    exit_code = 4


class ResourceError(LmiError):
    """A limit of memory, disk or time was reached."""

    exit_code = 5


class PartialError(LmiError):
    """Part of the input was not used, and ``--strict`` was given."""

    exit_code = 6


class StateFileError(LmiError):
    """A state file is corrupt or does not match the request."""

    exit_code = 7


class RequirementError(LmiError):
    """A result does not meet what the command line requires of it."""

    exit_code = 8
