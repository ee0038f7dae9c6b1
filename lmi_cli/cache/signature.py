"""How a state file is told from other files. Imports only the standard library."""

from pathlib import Path

FORMAT = "lmi-state"
_START = b'{"__metadata__":{'
_LONGEST_HEADER_BYTES = 100 * 2**20  # what safetensors allows


def is_state_file(path: Path) -> bool:
    """Whether the header of a file says that it is one; damage is found on reading it.

    The header is a JSON object behind its length, and what it says stands in no certain order.
    """
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _LONGEST_HEADER_BYTES or file.read(len(_START)) != _START:
                return False
            return f'"{FORMAT}"'.encode() in file.read(length)
    except (OSError, ValueError):
        return False
