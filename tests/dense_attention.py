"""Attention over ranges of keys as one dense softmax, and random ranges to try it on."""

import math

import numpy as np
import torch
from torch import Tensor

from lmi_cli.attention.ranges import KeyRange


def visible(keys: KeyRange, query_start: int) -> Tensor:
    query = query_start + torch.arange(keys.query.shape[2])[:, None]
    distance = query - keys.key_start - torch.arange(keys.key.shape[2])
    farthest = math.inf if keys.farthest is None else keys.farthest
    return (distance >= keys.nearest) & (distance < farthest)


def dense(
    ranges: list[KeyRange], query_start: int, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp in the dtype of the ranges, by one matrix of all scores."""
    scores, values = [], []
    for keys in ranges:
        folds = keys.query.shape[1] // keys.key.shape[1]
        part = keys.query @ keys.key.repeat_interleave(folds, 1).mT
        if softcap is not None:
            part = softcap * torch.tanh(part / softcap)
        if keys.alibi is not None:
            slopes, query_at, key_at = keys.alibi
            part = part - slopes[:, None, None] * (query_at[:, None] - key_at)
        scores.append(part.masked_fill(~visible(keys, query_start), -math.inf))
        values.append(keys.value.repeat_interleave(folds, 1))
    joint = torch.cat(scores, -1)
    weights = joint.softmax(-1).nan_to_num(0.0)
    return weights @ torch.cat(values, 2), joint.logsumexp(-1)


def random_range(
    random: np.random.Generator, query: tuple[int, ...], keys: int, **place: int | None
) -> KeyRange:
    """A range for queries ``(batch, heads, key heads, rows, head size)``."""
    batch, heads, key_heads, rows, size = query
    normal = [
        torch.from_numpy(random.standard_normal(shape))
        for shape in (
            (batch, heads, rows, size),
            (batch, key_heads, keys, size),
            (batch, key_heads, keys, size + 1),
        )
    ]
    return KeyRange(*normal, **{"key_start": 0} | place)
