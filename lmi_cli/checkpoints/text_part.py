"""The text part of a model that reads images as well, as a model of its own.

Its configuration is part of that of the whole model, and its tensors have a prefix there. They are
copied, byte for byte, into an entry of the cache. Imports the standard library only.
"""

import json
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lmi_cli.checkpoints import model_types, validation
from lmi_cli.checkpoints.entries import ReportBytes
from lmi_cli.checkpoints.tensors import WEIGHTS, StoredTensor, stored_tensors
from lmi_cli.checkpoints.untrusted_json import read_object
from lmi_cli.errors import ModelError

_PREFIXES = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
    "lm_head.": "lm_head.",
}
"""Beginnings of the names of tensors in whole models, and what they are in the text part."""

_OF_THE_WHOLE = (
    "bos_token_id", "dtype", "eos_token_id", "pad_token_id", "quantization_config", "torch_dtype",
)  # fmt: skip
_COPIED = (
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "generation_config.json",
    "merges.txt", "special_tokens_map.json", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "vocab.json",
)  # fmt: skip
_PIECE_BYTES = 2**22


def has_text_part(folder: Path) -> bool:
    """Whether a checked folder holds more than text, of which the text part can be taken.

    Raises:
        ModelError: The configuration is damaged.
    """
    return model_types.text_part(_configuration(folder)) is not None


def text_bytes(folder: Path) -> int:
    """Bytes of the tensors of the text part."""
    return sum(tensor.nbytes for tensor in _tensors(folder).values())


def extract(folder: Path, fresh: Path, progress: ReportBytes) -> None:
    """Write the text part of the model in ``folder`` to ``fresh``, an empty folder.

    Raises:
        ModelError: There are no tensors of a text part.
    """
    config, tensors = _configuration(folder), _tensors(folder)
    part = model_types.text_part(config)
    if part is None or "model.embed_tokens.weight" not in tensors:
        raise ModelError(f"{folder} has no tensors of a text part")
    shared = {name: config[name] for name in _OF_THE_WHOLE if config.get(name) is not None}
    tied = {"tie_word_embeddings": "lm_head.weight" not in tensors}
    (fresh / validation.CONFIG).write_text(json.dumps(shared | dict(part) | tied, indent=1))
    for name in _COPIED:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, fresh / name)
    _write(fresh / WEIGHTS, tensors, progress)
    validation.check(fresh)


def _configuration(folder: Path) -> dict[str, Any]:
    return read_object(folder / validation.CONFIG, validation.CONFIG_LIMIT_BYTES)


def _tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of the text part, by their names there."""
    return {
        new + name.removeprefix(old): tensor
        for name, tensor in stored_tensors(folder).items()
        for old, new in _PREFIXES.items()
        if name.startswith(old)
    }


def _write(path: Path, tensors: Mapping[str, StoredTensor], progress: ReportBytes) -> None:
    """Write a safetensors file of tensors that lie in others."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    total = 0
    for name, tensor in tensors.items():
        offsets = [total, total + tensor.nbytes]
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}
        total += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    done = 0
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            for piece in _pieces(tensor):
                file.write(piece)
                done += len(piece)
                progress(done, total, "taking out the text part")


def _pieces(tensor: StoredTensor) -> Iterator[bytes]:
    with tensor.path.open("rb") as file:
        file.seek(tensor.start)
        for start in range(0, tensor.nbytes, _PIECE_BYTES):
            yield file.read(min(_PIECE_BYTES, tensor.nbytes - start))
