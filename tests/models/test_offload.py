"""Weights on the disk or in main memory change nothing but the speed."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from tiny_models import random_ids, tiny_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from lmi_cli.engine import OFFLOADED_CHUNK
from lmi_cli.engine.engine import Engine
from lmi_cli.engine.forward import ForwardPass
from lmi_cli.engine.sampling import Sampling
from lmi_cli.methods.lm_infinite import LMInfinite
from lmi_cli.models.causal_lm import CausalLM
from lmi_cli.models.families import FAMILIES
from lmi_cli.models.shape import decoder_layers

METHOD = LMInfinite(9, 4, 12)
IDS = random_ids(40)


def in_memory(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    return cpu_offload(model, execution_device=torch.device("cpu"))


def on_disk(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    disk_offload(model, folder, execution_device=torch.device("cpu"))
    return model


def partly_on_disk(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    layers, inside = decoder_layers(model)
    parts = {name: "cpu" for name, _ in model.base_model.named_children() if name != layers}
    parts |= {f"{layers}.{layer}": "disk" for layer in range(len(inside))}
    parts[f"{layers}.0"] = "cpu"
    places = {f"{model.base_model_prefix}.{name}": place for name, place in parts.items()}
    head = next(name for name, m in model.named_modules() if m is model.get_output_embeddings())
    places[head] = places[next(iter(places))] if model.config.tie_word_embeddings else "disk"
    return dispatch_model(model, places, main_device="cpu", offload_dir=folder)


def loaded_with_little_memory(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    model.save_pretrained(folder / "model", max_shard_size="20KB")
    return AutoModelForCausalLM.from_pretrained(
        folder / "model",
        dtype=torch.float32,
        attn_implementation=model.config._attn_implementation,
        device_map="auto",
        max_memory={"cpu": "30KB"},
        offload_folder=folder / "offload",
    )


PLACES = [in_memory, on_disk, partly_on_disk, loaded_with_little_memory]


def everything(model: PreTrainedModel) -> list[torch.Tensor]:
    """Logits, scores and an answer, each over several chunks."""
    ids = random_ids(40)
    with CausalLM(model) as lm:
        engine = Engine(lm, METHOD, 7)
        state = engine.start()
        hidden = torch.cat([engine.forward(state, part) for part in (ids[:7], ids[7:11], ids[11:])])
        scores = [torch.from_numpy(e.nll) for e in engine.score(engine.start(), [ids])]
        events = engine.decode(
            state, hidden[-1], stop_ids=frozenset(), limit=5, sampling=Sampling()
        )
        answer = torch.tensor([event.token for event in events])
        sliced = torch.cat(list(lm.logits_in_slices(hidden, 3)))
        return [lm.logits(hidden), sliced, torch.cat(scores)[1:], answer]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
@pytest.mark.parametrize(
    "name", ["llama", "llama-tied", "gemma3_text", "falcon-alibi", "gpt_oss", "mpt"]
)
def test_offloaded_weights_give_the_same(
    name: str, place: Callable[[PreTrainedModel, Path], PreTrainedModel], tmp_path: Path
) -> None:
    expected = everything(tiny_model(name, torch.float32))
    model = place(tiny_model(name, torch.float32), tmp_path)
    assert any(weight.is_meta for weight in model.parameters()), "nothing was offloaded"
    for ours, plain in zip(everything(model), expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-6)
    assert any(weight.is_meta for weight in model.parameters()), "weights stayed in memory"
    with CausalLM(model) as lm:
        assert lm.chunk == OFFLOADED_CHUNK


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_with_its_weights_on_disk(name: str, tmp_path: Path) -> None:
    with CausalLM(tiny_model(name, torch.float32)) as lm:
        expected = lm.logits(Engine(lm, METHOD, 20).forward(Engine(lm, METHOD).start(), IDS))
    with CausalLM(on_disk(tiny_model(name, torch.float32), tmp_path)) as lm:
        assert all(weight.is_meta for weight in lm.model.parameters()), "weights are in memory"
        ours = lm.logits(Engine(lm, METHOD, 20).forward(Engine(lm, METHOD).start(), IDS))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_a_head_given_up_half_way_goes_back(tmp_path: Path) -> None:
    model = on_disk(tiny_model("llama", torch.float32), tmp_path)
    with CausalLM(model) as lm:
        slices = lm.logits_in_slices(torch.zeros(9, 32), 3)
        next(slices)
        slices.close()
        assert model.lm_head.weight.is_meta


def test_a_forward_pass_is_opaque() -> None:
    """Accelerate copies containers and whatever has a ``to``; a copy's changes would be lost."""
    assert not issubclass(ForwardPass, Mapping | Sequence | set)
    assert not hasattr(ForwardPass, "to")
