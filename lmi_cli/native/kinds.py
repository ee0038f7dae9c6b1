"""How linear layers keep the block formats of GGUF files. Imports the standard library only."""

from dataclasses import dataclass

LANES = 32
"""The number of components of a row must be a multiple of this."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A block format; a weight is ``scale * (code - offset) - minimum``.

    Attributes:
        name: As llama.cpp calls it.
        bits: Of a code.
        offset: What is subtracted from a code.
        has_minimum: Whether something is subtracted from the product with the scale.
        columns: Weights of a block in the file.
        nbytes: Bytes of a block in the file.
    """

    name: str
    bits: int
    offset: int
    has_minimum: bool
    columns: int
    nbytes: int

    @property
    def span(self) -> int:
        """Weights that share a scale."""
        return span_of(self.bits)

    @property
    def bits_per_weight(self) -> float:
        """Bits that a linear layer keeps of a weight, its share of the scale included."""
        return self.bits + (32 if self.has_minimum else 16) / self.span


def span_of(bits: int) -> int:
    """Weights that share a scale, if their codes have so many bits."""
    return 16 if bits == 6 else 32


GGUF_KINDS = {
    2: Kind("Q4_0", 4, 8, False, 32, 18),
    3: Kind("Q4_1", 4, 0, True, 32, 20),
    6: Kind("Q5_0", 5, 16, False, 32, 22),
    7: Kind("Q5_1", 5, 0, True, 32, 24),
    8: Kind("Q8_0", 8, 128, False, 32, 34),
    12: Kind("Q4_K", 4, 0, True, 256, 144),
    13: Kind("Q5_K", 5, 0, True, 256, 176),
    14: Kind("Q6_K", 6, 32, False, 256, 210),
}
"""The formats by their number in GGUF files."""

ROUNDED = {4: GGUF_KINDS[3], 8: GGUF_KINDS[8]}
"""What bfloat16 is rounded to, by the bits of a code."""
