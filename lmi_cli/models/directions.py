"""The directions on which embeddings of passages are compared, cached for each model."""

import base64
import contextlib

import torch
from torch import Tensor

from lmi_cli.checkpoints.resolve import ModelFiles
from lmi_cli.disk import Record
from lmi_cli.engine.embedding import middle_directions
from lmi_cli.engine.language_model import LanguageModel

_SCHEMA = 1
_KEY = "directions"


def known_directions(files: ModelFiles, model: LanguageModel) -> Tensor:
    """The result of :func:`lmi_cli.engine.embedding.middle_directions` for a model.

    It is computed once, which takes a second for a small model, and cached in bfloat16.
    """
    record = Record(_KEY, f"{files.identity}, schema {_SCHEMA}")
    with contextlib.suppress(ValueError, KeyError, TypeError, RuntimeError):
        stored = record.read()
        data = bytearray(base64.b64decode(stored["bfloat16"], validate=True))
        found = torch.frombuffer(data, dtype=torch.bfloat16)
        return found.view(stored["shape"]).float()
    directions = middle_directions(model).bfloat16()
    text = base64.b64encode(directions.view(torch.uint8).numpy().tobytes()).decode("ascii")
    record.write({"shape": list(directions.shape), "bfloat16": text})
    return directions.float()
