"""All that is known of a model before its weights are loaded.

Light where the model has been prepared before: neither torch nor transformers is imported then.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lmi_cli.checkpoints import conversion, gguf
from lmi_cli.checkpoints.entries import ReportBytes, report_nothing, sha256_file
from lmi_cli.checkpoints.resolve import ModelFiles
from lmi_cli.checkpoints.tensors import require_shapes, stored_tensors
from lmi_cli.checkpoints.untrusted_json import read_object
from lmi_cli.checkpoints.validation import CONFIG, CONFIG_LIMIT_BYTES
from lmi_cli.engine.heads import RetrievalHeads
from lmi_cli.errors import ModelError
from lmi_cli.models import speeds
from lmi_cli.models.blueprint import EMBEDDING, Blueprint, declared
from lmi_cli.models.chat import ChatTemplate
from lmi_cli.models.facts import ModelFacts
from lmi_cli.models.gguf_facts import facts_of_gguf
from lmi_cli.models.heads import known_heads
from lmi_cli.models.placement import AUTOMATIC, Placement, Precision
from lmi_cli.models.prepared import recall, remember
from lmi_cli.native import compiling
from lmi_cli.native.kinds import LANES
from lmi_cli.text.tokenizer import Tokenizer

_QUICKLY_READ_BYTES = 2**29


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model without its weights.

    Attributes:
        files: Where it lies on disk.
        facts: Its shape.
        placement: Where its weights are to go.
        precision: In which numbers it computes there.
        stored_tokenizer: Its tokenizer; None for a file that has not been converted.
        template: Its chat template, if it has one.
        blueprint: Its shape for our own decoder, where that runs it as well.
        heads: Its retrieval heads, which may be none; None while they have not been looked for.
        speeds: Tokens per second of earlier readings on this machine; see
            :mod:`lmi_cli.models.speeds`.
        notes: What the user should know about it, a sentence each.
    """

    files: ModelFiles
    facts: ModelFacts
    placement: Placement
    precision: Precision
    stored_tokenizer: Tokenizer | None
    template: ChatTemplate | None = None
    blueprint: Blueprint | None = None
    heads: RetrievalHeads | None = None
    speeds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer.

        Raises:
            RuntimeError: The model is a file that has not been converted.
        """
        if self.stored_tokenizer is None:
            raise RuntimeError(f"{self.files.id} has not been converted")
        return self.stored_tokenizer


def known_model(files: ModelFiles, placement: Placement = AUTOMATIC) -> KnownModel:
    """What is known of the model in a checked folder.

    The first use of a model reads it with transformers and runs the self-check, which takes
    seconds; the result is kept for later runs.

    Raises:
        ModelError: The family is unknown, the self-check fails, or a file cannot be read.
        UsageError: There is no such device.
    """
    notes = []
    prepared = recall(files)
    if prepared is None:
        _require_declared(files)
        from lmi_cli.models.preparing import prepare

        prepared = prepare(files.folder)
        if not remember(files, prepared):
            notes.append("the cache cannot be written, so every start is as slow as a first one")
    try:
        tokenizer, template = prepared.tokenizer.build(files.folder)
    except (OSError, ValueError) as error:
        raise ModelError(f"{files.id}: {str(error).partition(chr(10))[0]}") from error
    plain = prepared.blueprint
    return KnownModel(
        files=files,
        facts=prepared.facts,
        placement=placement,
        precision=placement.precision(
            prepared.facts.dtype,
            in_c=plain is not None and plain.is_packable and compiling.will_compute(),
            has_blocks=prepared.facts.block_bytes > 0,
        ),
        stored_tokenizer=tokenizer,
        template=template,
        blueprint=plain,
        heads=known_heads(files),
        speeds=speeds.recall(files),
        notes=tuple(notes),
    )


def _require_declared(files: ModelFiles) -> None:
    """Refuse weights that are wrong before seconds are spent on importing transformers.

    Only where the configuration and the names of the tensors leave nothing open.
    """
    stored = stored_tensors(files.folder)
    blueprint = declared(read_object(files.folder / CONFIG, CONFIG_LIMIT_BYTES))
    if blueprint is None or blueprint.layers > len(stored) or f"{EMBEDDING}.weight" not in stored:
        return
    import torch

    from lmi_cli.models.weights import Weights

    try:
        require_shapes(stored, blueprint.shapes(stored))
        if sum(tensor.nbytes for tensor in stored.values()) <= _QUICKLY_READ_BYTES:
            Weights(files.folder, torch.float32).require_finite()
    except ModelError as error:
        raise ModelError(f"{files.id}: {error.message}") from error


def known_gguf(
    path: Path, placement: Placement = AUTOMATIC, report: ReportBytes = report_nothing
) -> KnownModel:
    """What the header of a GGUF file says; nothing is converted, so there is no tokenizer.

    Args:
        path: The file.
        placement: Where its weights are to go.
        report: Told how much of the file has been hashed.

    Raises:
        ModelError: The file is damaged, or says too little.
    """
    facts, total, header = facts_of_gguf(path), path.stat().st_size, gguf.read_header(path)
    identity = sha256_file(path, lambda done: report(done, total, "reading"))
    files = ModelFiles(str(path), path.parent, identity, "gguf")
    inner = header.values.get(f"{header.architecture}.feed_forward_length", 0)
    precision = placement.precision(
        facts.dtype,
        in_c=conversion.keeps_blocks(header)
        and not any(size % LANES for size in (facts.hidden, facts.head_dim, inner))
        and compiling.will_compute(),
        has_blocks=facts.block_bytes > 0,
    )
    return KnownModel(files, facts, placement, precision, None)
