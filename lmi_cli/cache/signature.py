"""How a state file is told from other files. Imports only the standard library."""

from pathlib import Path

FORMAT = "lmi-state"
_HEAD_BYTES = 4096


def is_state_file(path: Path) -> bool:
    """Whether a file says at its head that it is one; damage further on is found on reading it."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except (OSError, ValueError):
        return False
    return head[8:9] == b"{" and f'"{FORMAT}"'.encode() in head
