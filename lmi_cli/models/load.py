"""From a checked folder of model files to a model on its devices.

On the CPU a plain decoder is run by our own code, which starts in a fraction of the time that
importing transformers takes; every other model and placement goes through transformers and
accelerate.
"""

from dataclasses import dataclass, replace

import torch
from safetensors import SafetensorError

from lmi_cli import memory
from lmi_cli.checkpoints.resolve import ModelFiles
from lmi_cli.engine.language_model import LanguageModel
from lmi_cli.errors import ModelError, ResourceError, UsageError
from lmi_cli.models import packed
from lmi_cli.models.chat import ChatTemplate
from lmi_cli.models.decoder import Decoder
from lmi_cli.models.dequantized import dequantized
from lmi_cli.models.known import KnownModel, known_model
from lmi_cli.models.placement import AUTOMATIC, Placement
from lmi_cli.models.weights import Weights
from lmi_cli.native import choice, cpu, library, onednn, threads
from lmi_cli.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to read.

    Attributes:
        known: Its files, tokenizer and shape.
        lm: Its weights.
        notes: What the user should know about how it is run here.
    """

    known: KnownModel
    lm: LanguageModel
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> ModelFiles:
        """Where it lies on disk."""
        return self.known.files

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        return self.known.tokenizer

    @property
    def template(self) -> ChatTemplate | None:
        """Its chat template, if it has one."""
        return self.known.template


def load(files: ModelFiles, placement: Placement = AUTOMATIC) -> Loaded:
    """Load a model; see :func:`load_known`.

    Raises:
        ModelError: The family is unknown, the self-check fails, or a file cannot be read.
        ResourceError: The weights do not fit.
        UsageError: There is no such device, or weights of few bits are not possible here.
    """
    placement.arguments()  # what cannot be is said before anything is read
    return load_known(known_model(files, placement))


def load_known(known: KnownModel) -> Loaded:
    """Load the weights of a model that has passed the self-check, where it is to go.

    Raises:
        ModelError: A file cannot be read.
        ResourceError: The weights do not fit.
        UsageError: There is no such device, or weights of few bits are not possible here.
    """
    files, placement = known.files, known.placement
    devices = placement.arguments()
    on_cpu = devices == {"device_map": {"": "cpu"}}
    plain = known.blueprint if on_cpu else None
    packable = plain is not None and plain.is_packable
    threads.use_threads(placement.threads)
    notes: list[str] = []
    fault: str | None = None
    if on_cpu and (known.precision.dtype == "bfloat16" or (packable and placement.dtype == "auto")):
        fault = choice.use_library()
        notes += [] if fault is None else [fault]
    if placement.quantize == "auto" and not library.is_open():
        # What the files of the library promised has not come true.
        known = replace(known, precision=placement.precision(known.facts.dtype))
    precision = known.precision
    dtype: torch.dtype = getattr(torch, precision.dtype)
    quantize = precision.quantize
    rounds = quantize != "none"
    if on_cpu:
        memory.require(
            known.facts.weights_bytes(precision.dtype, quantize),
            f"{files.id} in {quantize if rounds else precision.dtype}",
            "a smaller model or dtype, or --device-map auto with --offload-folder",
        )
        cpu.return_freed_memory()
        onednn.bound_caches()
    if rounds and not (packable and dtype == torch.bfloat16 and library.is_open()):
        raise UsageError(
            f"{files.id}: weights of few bits are for models that lmi itself runs (see the "
            "README), in bfloat16 and on a CPU with the library in C",
            hint=fault or "leave --quantize out",
        )
    if quantize == "blocks" and not known.facts.block_bytes:
        raise UsageError(
            f"{files.id} is not made of blocks of a GGUF file", hint="try --quantize int8 or int4"
        )
    try:
        if plain is not None:
            weights = Weights(files.folder, dtype)
            weights.require_shapes(plain.shapes(weights.keys()))
            before = packed.load(files, quantize) if rounds else {}
            decoder = Decoder(plain, weights, quantize=quantize, packed=before)
            if decoder.packed != before and not packed.save(files, quantize, decoder.packed):
                notes.append("packed weights cannot be cached, so every start packs them again")
            lm: LanguageModel = decoder
        else:
            from lmi_cli.models.causal_lm import load_pretrained
            from lmi_cli.models.selfcheck import family_by_trying

            folder, more = dequantized(files)
            notes += more
            lm = load_pretrained(folder, dtype, devices, family_by_trying)
    except ModelError as error:
        raise ModelError(f"{files.id}: {error.message}", hint=error.hint) from error
    except (OSError, ValueError, KeyError, RuntimeError, MemoryError, SafetensorError) as error:
        if memory.ran_out(error):
            raise ResourceError(
                f"{files.id} does not fit its device", hint="try --device-map auto or --max-memory"
            ) from error
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(f"{files.id} cannot be loaded: {reason}") from error
    if on_cpu:
        cpu.keep_freed_memory()
    return Loaded(known, lm, tuple(notes))
