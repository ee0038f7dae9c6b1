"""Embeddings of passages and questions, from the final hidden states of the model that reads.

The mean hidden state of a text is dominated by what every text has in common. Two corrections make
it useful without any training: what the passages share is subtracted, and only the middle singular
directions of the output projection are kept, since both ends carry frequent tokens (EmbedFilter,
arXiv 2606.07502).
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lmi_cli.engine.language_model import LanguageModel

KEPT = 2
"""One direction in so many is kept; a quarter to three quarters measure alike."""

_ROWS = 8192


@torch.inference_mode()
def middle_directions(model: LanguageModel) -> Tensor:
    """The middle right singular vectors of the output projection, half of them.

    Returns:
        float32 ``[hidden, hidden / KEPT]``, orthonormal.
    """
    hidden = model.output_rows(0, 1).shape[1]
    gram = torch.zeros(hidden, hidden)
    for first in range(0, model.vocab_size, _ROWS):
        rows = model.output_rows(first, min(model.vocab_size, first + _ROWS)).cpu().float()
        gram.addmm_(rows.T, rows)
    directions = torch.linalg.eigh(gram.double()).eigenvectors.float()
    first = (hidden - hidden // KEPT) // 2
    middle: Tensor = directions[:, first : first + hidden // KEPT].contiguous()
    return middle


def embed_passages(states: Tensor, directions: Tensor) -> Tensor:
    """Unit vectors ``[passages, directions]`` of mean states ``[passages, hidden]``.

    States of zero, those of passages without a token that counts, give zero.
    """
    counts = states.any(-1, keepdim=True)
    usual = states.sum(0) / counts.sum().clamp_min(1)
    unit: Tensor = normalize(((states - usual) * counts) @ directions, dim=-1)
    return unit


def embed_question(state: Tensor, empty: Tensor, directions: Tensor) -> Tensor:
    """Unit vectors ``[..., directions]`` of states ``[..., hidden]`` of a question.

    ``empty`` (``[n, ..., hidden]``) are the same states of questions without content.
    """
    unit: Tensor = normalize((state - empty.mean(0)) @ directions, dim=-1)
    return unit
