"""Edits that turn a sound file into a damaged or a hostile one.

An edit is plain data, so that hypothesis can shrink a list of them, and a long run can draw them
from a seed.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

LARGEST = 2**16
"""No edit makes a file longer than this, in bytes, unless it is longer already."""

KINDS = ("set", "flip", "insert", "delete", "repeat", "copy", "cut")

NUMBERS = tuple(
    number.to_bytes(size, "little", signed=number < 0)
    for size in (1, 2, 4, 8)
    for number in (0, 1, -1, 2 ** (8 * size - 1) - 1, -(2 ** (8 * size - 1)), 2 ** (4 * size))
)
DIGITS = (b"0", b"-1", b"1e999", b"NaN", b"65536", b"4294967296", b"9223372036854775808", b"1.5")
TEXTS = (
    b"\x00",
    b"\xff",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\x1b[2J",
    b"\r",
    b"\n",
    b"\xe2\x80\xae",
    b"",
)
COMMON = (*NUMBERS, *DIGITS, *TEXTS)


@dataclass(frozen=True)
class Edit:
    """One change.

    Attributes:
        kind: One of ``KINDS``.
        at: Where, in 2**16ths of the file.
        length: How many bytes are concerned, or which bit.
        payload: What is written; for a repetition, its length says how often.
    """

    kind: str
    at: int
    length: int
    payload: bytes

    def apply(self, data: bytes) -> bytes:
        """The file after this edit."""
        at = self.at * (len(data) + 1) >> 16
        end = min(len(data), at + self.length)
        match self.kind:
            case "set":
                return data[:at] + self.payload + data[at + len(self.payload) :]
            case "flip" if at < len(data):
                return data[:at] + bytes([data[at] ^ 1 << self.length % 8]) + data[at + 1 :]
            case "insert":
                return data[:at] + self.payload + data[at:]
            case "delete":
                return data[:at] + data[end:]
            case "repeat":
                room = max(0, LARGEST - len(data)) // max(1, end - at)
                return data[:end] + data[at:end] * min(room, 4 ** len(self.payload)) + data[end:]
            case "copy":
                other = (self.length * 7919) % (len(data) + 1)
                return data[:other] + data[at:end] + data[other:]
            case "cut":
                return data[:at]
        return data


def damaged(data: bytes, edits: Sequence[Edit]) -> bytes:
    """A file after several edits."""
    for edit in edits:
        data = edit.apply(data)
    return data


def draw(source: random.Random, words: Sequence[bytes]) -> list[Edit]:
    """A few edits, most of them small; ``words`` are payloads that mean something to the format."""
    found = []
    for _ in range(source.choice((1, 1, 2, 3, 6))):
        length = source.choice((1, 2, 4, 8, 40, 300, 5000))
        payload = source.choice(words) if source.random() < 0.7 else source.randbytes(length % 9)
        found.append(Edit(source.choice(KINDS), source.getrandbits(16), length, payload))
    return found
