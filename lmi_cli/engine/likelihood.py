"""The likelihood of a question behind a passage (Sachan et al. 2022, UPR, arXiv 2204.07496)."""

import numpy as np
import torch

from lmi_cli.engine.engine import Engine, Ids


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
    wanted = torch.from_numpy(question.astype(np.int64))
    found = engine.model.losses(hidden[len(context) - 1 : -1], wanted)
    return -float(found.loss.double().mean())
