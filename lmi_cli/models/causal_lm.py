"""A model that transformers and accelerate load and run, with our attention."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from lmi_cli.attention.layer import LayerSpec
from lmi_cli.checkpoints.tensors import StoredTensor, stored_tensors, wrong_shape
from lmi_cli.engine import CHUNK, OFFLOADED_CHUNK
from lmi_cli.engine.language_model import Attention, LanguageModel, Losses
from lmi_cli.errors import ModelError
from lmi_cli.models import hook, recurrent
from lmi_cli.models.families import Family, family_of, layer_specs
from lmi_cli.models.logits import LogitsScale
from lmi_cli.models.losses import by_vocabulary, losses_of
from lmi_cli.models.shape import base_model, decoder_layers, shape_of
from lmi_cli.models.trained_length import trained_length
from lmi_cli.models.weights import require_finite
from lmi_cli.native import onednn


class CausalLM(LanguageModel):
    """A transformers model whose attention is replaced by ours while this object is open.

    Args:
        model: A loaded model in evaluation mode.
        family: What is known of its family; None for what the table says.

    Raises:
        ModelError: The family is unknown, or its attention cannot be replaced.
    """

    computed_by = "transformers"

    def __init__(self, model: PreTrainedModel, family: Family | None = None) -> None:
        self._family = family = family or family_of(model.config)
        self.model = model
        self.config = config = model.config
        self.family = config.model_type
        self.trained_length = trained_length(config)
        embedding = model.get_input_embeddings().weight
        self.vocab_size = len(embedding)
        self.device = embedding.device  # where token ids go
        self.dtype = model.dtype
        self.is_recurrent = recurrent.is_recurrent(config)
        self._attending = recurrent.attention_layers(config)
        shape = shape_of(config)
        self.attention_heads = (shape.heads, shape.key_heads)
        self.head_size = shape.head_size
        placed = getattr(model, "hf_device_map", None) or {"": self.device}
        self.device_map = {name: str(device) for name, device in placed.items()}
        self._arguments = {} if family.adapter is None else family.adapter.arguments
        self._layers_name, _ = decoder_layers(model)
        self._output = OutputHead(model)
        self._devices = {at: self._device_of(at) for at in recurrent.recurrent_layers(config)}
        recurrent.leave_unscaled(model)
        self._closed = False
        self._open = ExitStack()
        self._install()

    def _install(self) -> None:
        if self._attending:
            self._open.enter_context(hook.installed(self.model, self._family.adapter))
        if self.is_recurrent:
            self._open.enter_context(recurrent.installed(self.model))

    def close(self) -> None:
        """Give the model its own attention back."""
        self._closed = True
        self._open.close()

    @contextmanager
    def with_own_attention(self, implementation: str) -> Iterator[PreTrainedModel]:
        """The model with one of transformers' own attentions for a while, where it has several."""
        self._open.close()
        several = bool(self._attending) and self._family.adapter is None
        before = self.config._attn_implementation
        try:
            if several:
                self.model.set_attn_implementation(implementation)
            yield self.model
        finally:
            if several:
                self.model.set_attn_implementation(before)
            self._install()

    def layer_device(self, index: int) -> torch.device:
        """The device on which an attention layer runs."""
        return self._device_of(self._attending[index])

    def _device_of(self, index: int) -> torch.device:
        """The device on which a layer runs, counted among all layers."""
        layer: Any = getattr(base_model(self.model), self._layers_name)[index]
        placed = getattr(getattr(layer, "_hf_hook", None), "execution_device", None)
        return torch.device(next(layer.parameters()).device if placed is None else placed)

    @property
    def weights_bytes(self) -> int:
        """Bytes of all weights, each storage counted once, wherever it is."""
        return sum(parameter.nbytes for parameter in self.model.parameters())

    @property
    def chunk(self) -> int:
        """Tokens in one forward pass: more if each pass has to fetch offloaded weights."""
        offloaded = any(parameter.is_meta for parameter in self.model.parameters())
        return OFFLOADED_CHUNK if offloaded else CHUNK

    @property
    def linear_weights(self) -> int:
        """Number of weights in the linear layers, without the output projection after them."""
        head: Any = self.model.get_output_embeddings()
        return sum(
            module.weight.numel()
            for module in self.model.modules()
            if isinstance(module, nn.Linear) and module is not head
        )

    @property
    def step_bytes(self) -> int:
        """Bytes of the weights that are read for one generated token."""
        head: Any = self.model.get_output_embeddings()
        return (self.linear_weights + int(head.weight.numel())) * self.dtype.itemsize

    def layers(self, horizon: int) -> list[LayerSpec]:
        """See :func:`lmi_cli.models.families.layer_specs`."""
        return layer_specs(self.model, horizon, self._family)

    @torch.inference_mode()
    def hidden(self, ids: Tensor, attention: Attention, depth: int | None = None) -> Tensor:
        """See :meth:`LanguageModel.hidden`.

        Raises:
            RuntimeError: This object is closed; the model's own attention would see no positions.
        """
        if self._closed:
            raise RuntimeError("this model has been closed")
        offloaded = self.device.type == "meta"
        ids = ids.to("cpu" if offloaded else self.device)
        with (
            self._carried(attention) as arguments,
            onednn.linear_layers(ids.numel(), ids.device),
            self._only(depth),
        ):
            if self._attending:
                arguments["position_ids"] = torch.zeros_like(ids)
            if offloaded:  # some models move ids to where they find the embedding: nowhere
                arguments["inputs_embeds"] = self.model.get_input_embeddings()(ids)
            else:
                arguments["input_ids"] = ids
            output = base_model(self.model)(use_cache=False, **arguments, **self._arguments)
            if "state" in arguments:  # layers on other devices were given copies
                arguments["state"] = output.state
        # Mamba keeps the sum of its layers in float32.
        hidden: Tensor = output.last_hidden_state.to(self.dtype)
        return hidden

    def logits_in_slices(self, hidden: Tensor, rows: int) -> Iterator[Tensor]:
        """Logits of ``hidden`` (``[..., hidden]``), at most ``rows`` tokens at a time."""
        return self._output.slices(hidden.reshape(-1, hidden.shape[-1]), rows)

    def losses(self, hidden: Tensor, targets: Tensor, *, with_entropy: bool = False) -> Losses:
        """See :meth:`LanguageModel.losses`."""
        return self._output.losses(hidden, targets, with_entropy)

    def output_rows(self, first: int, stop: int) -> Tensor:
        """See :meth:`LanguageModel.output_rows`."""
        return self._output.rows(first, stop)

    @contextmanager
    def _carried(self, attention: Attention) -> Iterator[dict[str, Any]]:
        """Let the layers of one pass attend and carry; yields arguments of the model."""
        if not self.is_recurrent:
            with hook.passing(attention):
                yield {}
            return
        places = {layer: place for place, layer in enumerate(self._attending)}
        with (
            recurrent.carried(self.model, attention, places, self._devices) as (more, numbered),
            hook.passing(numbered),
        ):
            yield more

    @contextmanager
    def _only(self, depth: int | None) -> Iterator[None]:
        """Leave the model its layers up to attention layer number ``depth``; None leaves all."""
        if depth is None:
            yield
            return
        base = base_model(self.model)
        layers = getattr(base, self._layers_name)
        setattr(base, self._layers_name, layers[: self._attending[depth - 1] + 1])
        try:
            yield
        finally:
            setattr(base, self._layers_name, layers)


class OutputHead:
    """The output projection, with the scaling and softcap that some families apply after it."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config
        self._projection: Any = model.get_output_embeddings()
        self._scale = LogitsScale(
            getattr(config, "logit_scale", None) or 1.0,
            getattr(config, "logits_scaling", None) or 1.0,
            getattr(config, "final_logit_softcapping", None),
        )

    @torch.inference_mode()
    def slices(self, hidden: Tensor, rows: int) -> Iterator[Tensor]:
        """Logits of ``hidden`` (``[n, hidden]``) as ``[<= rows, vocab]``, float32 or wider.

        Offloaded weights are fetched once for the whole call.
        """
        with self._fetched(hidden) as (weight, bias, hidden):
            for part in hidden.split(rows):
                with onednn.linear_layers(len(part), part.device):
                    logits = nn.functional.linear(part, weight, bias)
                yield self._scale(logits if logits.dtype == torch.float64 else logits.float())

    @torch.inference_mode()
    def losses(self, hidden: Tensor, targets: Tensor, with_entropy: bool) -> Losses:
        """Losses of tokens ``[n]``, given hidden states ``[n, hidden]``."""
        with self._fetched(hidden) as (weight, bias, hidden):
            logits = map(self._scale, by_vocabulary(hidden, weight, bias))
            return losses_of(logits, targets, with_entropy=with_entropy)

    @torch.inference_mode()
    def rows(self, first: int, stop: int) -> Tensor:
        """Rows of the projection, ``[stop - first, hidden]``."""
        with self._fetched(torch.empty(0)) as (weight, _, _):
            return weight[first:stop].clone()

    @contextmanager
    def _fetched(self, hidden: Tensor) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """Weight and bias, fetched if they are offloaded, and hidden states on their device."""
        offload = getattr(self._projection, "_hf_hook", None)
        if offload is not None:
            (hidden,), _ = offload.pre_forward(self._projection, hidden)
        try:
            yield self._projection.weight, getattr(self._projection, "bias", None), hidden
        finally:
            if offload is not None:
                offload.post_forward(self._projection, hidden)


def load_pretrained(
    folder: Path,
    dtype: torch.dtype,
    devices: dict[str, Any],
    family_for: Callable[[PretrainedConfig], Family] = family_of,
) -> CausalLM:
    """Load the weights of a checked folder that has passed the self-check.

    Args:
        folder: The model.
        dtype: The dtype in which it computes.
        devices: Where the weights go, as arguments of ``from_pretrained``.
        family_for: What is known of the family of a configuration.

    Raises:
        ModelError: A tensor is missing, has another shape than the configuration implies, or
            contains values that are not finite.
        OSError, ValueError, KeyError, RuntimeError: Whatever transformers raises for bad files.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    family = family_for(config)
    _require_as_many(config, stored_tensors(folder))
    # By default transformers fills in what is missing with random numbers.
    model, found = AutoModelForCausalLM.from_pretrained(
        folder,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        dtype=dtype,
        attn_implementation=family.stock,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        **devices,
    )
    for name, stored, expected in sorted(found["mismatched_keys"]):
        raise wrong_shape(name, stored, expected)
    for name in sorted(found["missing_keys"]):
        raise ModelError(f"there is no tensor {name}")
    numbered = re.compile(rf"\.{decoder_layers(model)[0]}\.(\d+)\.")
    for name in sorted(found["unexpected_keys"]):
        if (layer := numbered.search(name)) and int(layer[1]) >= config.num_hidden_layers:
            raise ModelError(
                f"there is a tensor {name}, but by the configuration there are "
                f"{config.num_hidden_layers:,} layers"
            )
    for name, weight in model.named_parameters():
        if weight.device.type != "meta":
            require_finite(name, weight)
    return CausalLM(model.eval(), family)


def _require_as_many(config: PretrainedConfig, stored: Mapping[str, StoredTensor]) -> None:
    """Refuse a configuration of a larger model than is stored, before it is allocated.

    Raises:
        ModelError: It describes more weights than there are.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    described = sum(weight.numel() for weight in model.parameters())
    there = sum(prod(tensor.shape) for tensor in stored.values())
    if described > there:
        raise ModelError(
            f"the configuration describes {described:,} weights, but only {there:,} are stored"
        )
