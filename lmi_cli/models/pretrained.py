"""Models as transformers loads and runs them, through accelerate."""

import logging
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from lmi_cli.models.causal_lm import CausalLM


def load_pretrained(folder: Path, dtype: torch.dtype, devices: dict[str, Any]) -> CausalLM:
    """Load the weights of a checked folder that has passed the self-check.

    Args:
        folder: The model.
        dtype: In which it computes.
        devices: Where the weights go, as ``from_pretrained`` takes it.

    Raises:
        OSError, ValueError, KeyError, RuntimeError: Whatever transformers makes of bad files.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation="eager",
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        **devices,
    )
    return CausalLM(model.eval())
