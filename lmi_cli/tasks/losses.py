"""Sums of losses by place and source, and the figures that follow from them. Imports numpy."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmi_cli.tasks.scored_text import PIECE_TOKENS, TokenPiece


class LossRow(NamedTuple):
    """Sums, in float64, over the tokens of one source in one step of the curve.

    Attributes:
        step: The tokens are at ``step * PIECE_TOKENS`` of the text and behind it.
        source: As in :class:`TokenPiece`.
        tokens: How many of them are scored.
        nll: Sum of their losses, in nats.
        squares: Sum of the squares of the losses.
        utf8_bytes: UTF-8 bytes of the tokens that are scored.
    """

    step: int
    source: int
    tokens: int
    nll: float
    squares: float
    utf8_bytes: int


def loss_rows(start: int, tokens: TokenPiece, nll: NDArray[np.float32]) -> list[LossRow]:
    """Sum up losses of consecutive tokens.

    Args:
        start: Position of the first of them in the text.
        tokens: The tokens.
        nll: In nats, float32, ``[tokens]``; nan marks a token that is not scored.
    """
    scored = ~np.isnan(nll)
    if not scored.any():
        return []
    values = nll[scored].astype(np.float64)
    steps = (start + np.flatnonzero(scored)) // PIECE_TOKENS
    places = np.stack((steps, tokens.sources[scored]), axis=1)
    keys, which = np.unique(places, axis=0, return_inverse=True)
    sums = [
        np.bincount(which.reshape(-1), weights, len(keys)).tolist()
        for weights in (np.ones_like(values), values, values**2, tokens.utf8_bytes[scored])
    ]
    return [
        LossRow(int(step), int(source), int(count), total, squares, int(size))
        for (step, source), count, total, squares, size in zip(keys, *sums, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Bucket:
    """One step of the curve: mean loss of the tokens at ``start <= position < end``.

    Attributes:
        nll: In nats per token.
        tokens: How many are scored.
    """

    start: int
    end: int
    nll: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Score:
    """Sums over scored tokens, in float64, from which every figure is computed.

    Attributes:
        curve: Mean loss by position in the text, or in the texts.
    """

    tokens: int
    total: float
    squares: float
    utf8_bytes: int
    curve: list[Bucket]

    @classmethod
    def of(cls, rows: Iterable[LossRow]) -> "Score":
        """The sums of rows, in whatever order they are."""
        rows = list(rows)
        by_step: dict[int, list[LossRow]] = {}
        for row in rows:
            by_step.setdefault(row.step, []).append(row)
        curve = []
        for step in sorted(by_step):
            tokens = sum(row.tokens for row in by_step[step])
            nll = math.fsum(row.nll for row in by_step[step]) / tokens
            curve.append(Bucket(step * PIECE_TOKENS, (step + 1) * PIECE_TOKENS, nll, tokens))
        return cls(
            tokens=sum(row.tokens for row in rows),
            total=math.fsum(row.nll for row in rows),
            squares=math.fsum(row.squares for row in rows),
            utf8_bytes=sum(row.utf8_bytes for row in rows),
            curve=curve,
        )

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood, in nats per token."""
        return self.total / self.tokens

    @property
    def ppl(self) -> float:
        """Perplexity; infinite beyond the range of a float."""
        return perplexity_of(self.nll)

    @property
    def ppl_se(self) -> float | None:
        """Standard error of the perplexity, with the tokens taken as independent.

        That of the mean loss times the perplexity (delta method); None for one token, and beyond
        the range of a float.
        """
        if self.tokens < 2:
            return None
        variance = max(0.0, self.squares / self.tokens - self.nll**2)
        error = self.ppl * math.sqrt(variance / (self.tokens - 1))
        return error if math.isfinite(error) else None

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per UTF-8 byte of the scored tokens; None if no character ends in them."""
        return self.total / math.log(2) / self.utf8_bytes if self.utf8_bytes else None


def perplexity_of(nll: float) -> float:
    """Perplexity of a mean loss in nats; infinite beyond the range of a float."""
    try:
        return math.exp(nll)
    except OverflowError:
        return math.inf
