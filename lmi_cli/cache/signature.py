"""How a state file is recognised. Imports only the standard library."""

from pathlib import Path

FORMAT = "lmi-state"
_START = b'{"__metadata__":{'
_LONGEST_HEADER_BYTES = 100 * 2**20  # what safetensors allows


def is_state_file(path: Path) -> bool:
    """Whether the header of a file says that it is a state file; damage is found when it is read.

    The header is a JSON object, preceded by its length, with its keys in no particular order.
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
