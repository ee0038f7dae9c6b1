"""The blocks of a GGUF file, run by our decoder, against the same weights run by transformers.

    python docs/compare_gguf.py MODEL.gguf TEXT.txt [--tokens N]

The loss of each of the first tokens of a text is computed

* by ``lmi`` from the blocks of the file, in one chunk after another, and token by token, which
  takes other kernels (whole numbers);
* by our decoder in float32, from the same blocks expanded to numbers;
* by transformers, with sdpa, in float32 and in bfloat16, from these numbers.

Printed is the mean of each, and how far its losses are from those of transformers in float32.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from lmi_cli.checkpoints.resolve import resolve
from lmi_cli.engine.engine import Engine, Ids
from lmi_cli.engine.language_model import LanguageModel
from lmi_cli.methods import Full
from lmi_cli.models.decoder import Decoder
from lmi_cli.models.dequantized import dequantized
from lmi_cli.models.load import load
from lmi_cli.models.weights import Weights
from lmi_cli.native import library

CHUNK = 512
FIRST = 8


def hidden(lm: LanguageModel, ids: Ids, sizes: Callable[[int], int]) -> Tensor:
    """Hidden states ``[n, hidden]``; ``sizes`` gives the next pass, from the tokens read."""
    engine, parts, at = Engine(lm, Full(), CHUNK), list[Tensor](), 0
    state = engine.start()
    while at < len(ids):
        part = ids[at : at + sizes(at)]
        parts.append(engine.forward(state, part))
        at += len(part)
    return torch.cat(parts)


def losses(logits: Tensor, ids: Ids) -> Tensor:
    """Loss of each token but the first, float64 ``[n - 1]``."""
    target = torch.from_numpy(ids[1:].astype(np.int64))
    return torch.nn.functional.cross_entropy(logits[:-1].double(), target, reduction="none")


def main() -> None:
    """Print a row for each way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=1000)
    given = parser.parse_args()
    files = resolve(given.model)
    model = load(files)
    if model.lm.quantize != "blocks":
        parser.error(f"{given.model} is not run from blocks: {', '.join(model.notes)}")
    text = given.text.read_text(encoding="utf-8")[: given.tokens * 8]
    prefix = np.array(model.tokenizer.prefix, dtype=np.int32)
    ids = np.concatenate((prefix, model.tokenizer.encode(text).ids))[: given.tokens]

    found = {
        "lmi, blocks, chunks": losses(
            model.lm.logits(hidden(model.lm, ids, lambda at: CHUNK)), ids
        ),
        "lmi, blocks, one by one": losses(
            model.lm.logits(hidden(model.lm, ids, lambda at: 1 if at else FIRST)), ids
        ),
    }
    library.use(None)
    assert model.known.blueprint is not None
    weights = Weights(files.folder, torch.float32)
    wide = Decoder(model.known.blueprint, weights)
    found["lmi, float32"] = losses(wide.logits(hidden(wide, ids, lambda at: CHUNK)), ids)
    folder, _ = dequantized(files)
    tokens = torch.from_numpy(ids.astype(np.int64))[None]
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        stock = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
        )
        with torch.inference_mode():
            parameters = stock.state_dict()
            for key in weights:  # the folder may have them rounded
                parameters[key].copy_(weights[key])
            logits = stock.to(dtype)(input_ids=tokens, use_cache=False).logits[0]
        found[f"transformers, {name}"] = losses(logits, ids)

    truth = found["transformers, float32"]
    sys.stdout.write("| | mean loss | mean difference | mean of absolute differences | largest |\n")
    sys.stdout.write("|---|---|---|---|---|\n")
    for name, each in found.items():
        apart = each - truth
        sys.stdout.write(
            f"| {name} | {each.mean():.5f} | {apart.mean():+.5f} | {apart.abs().mean():.5f} "
            f"| {apart.abs().max():.5f} |\n"
        )


if __name__ == "__main__":
    main()
