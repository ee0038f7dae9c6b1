"""The likelihood of a question behind a passage (Sachan et al. 2022, UPR, arXiv 2204.07496)."""

import numpy as np
import torch

from lmi_cli.engine.engine import Engine, Ids

_HEAD_ROWS = 256


def mean_log_likelihood(engine: Engine, context: Ids, question: Ids) -> float:
    """Mean log-likelihood of the tokens of a question, in nats, as the continuation of a context.

    Args:
        engine: Runs the model.
        context: At least one token.
        question: At least one token.
    """
    ids = np.concatenate([context, question])
    hidden = torch.cat([event.hidden for event in engine.read(engine.start(), [ids])])
    # The state of each token predicts the next one.
    target = torch.from_numpy(question.astype(np.int64))
    total, done = 0.0, 0
    for logits in engine.model.logits_in_slices(hidden[len(context) - 1 : -1], _HEAD_ROWS):
        wanted = target[done : done + len(logits)].to(logits.device)
        total += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
        done += len(logits)
    return -total / len(question)
