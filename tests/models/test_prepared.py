"""What a first start has found out spares the next one transformers, and is not trusted blindly."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_model import save_model, shared_model

from lmi_cli import disk
from lmi_cli.checkpoints.resolve import ModelFiles, resolve
from lmi_cli.errors import ModelError
from lmi_cli.models import prepared, selfcheck
from lmi_cli.models.causal_lm import CausalLM
from lmi_cli.models.decoder import Decoder
from lmi_cli.models.load import Loaded, load
from lmi_cli.models.placement import Placement
from lmi_cli.models.prepared import recall, remember

ON_CPU = Placement(dtype="float32", device="cpu")


@pytest.fixture
def files(cache: Path) -> ModelFiles:
    return resolve(str(shared_model()))


def entry(cache: Path) -> Path:
    (path,) = cache.glob("prepared/*.json")
    return path


def says(loaded: Loaded) -> tuple[Any, ...]:
    """All that depends on what is prepared."""
    tokenizer, template = loaded.tokenizer, loaded.template
    talk = None if template is None else template.render([{"role": "user", "content": "hello"}])
    text = tokenizer.encode("hello <|im_end|> there").ids.tolist()
    return text, tokenizer.prefix, tokenizer.stop_ids, talk, loaded.lm.trained_length


def test_the_second_start_needs_no_transformers(cache: Path) -> None:
    program = (
        "import sys\n"
        "from lmi_cli.models.load import load\n"
        "from lmi_cli.models.placement import Placement\n"
        "from lmi_cli.checkpoints.resolve import resolve\n"
        f"load(resolve({str(shared_model())!r}), Placement(device='cpu'))\n"
        "print('transformers' in sys.modules)\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.strip()
        for _ in range(2)
    ]
    assert said == ["True", "False"]


def test_both_starts_make_the_same_of_it(files: ModelFiles, cache: Path) -> None:
    first = load(files, ON_CPU)
    assert entry(cache).exists()
    second = load(files, ON_CPU)
    assert says(first) == says(second)
    assert isinstance(second.lm, Decoder)


def test_a_tokenizer_that_transformers_changes_is_kept_as_changed(cache: Path) -> None:
    """Its class, not the file, says that a space goes in front."""
    folder = save_model(cache / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    changed = settings | {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(changed))
    files = resolve(str(folder))
    first, second = load(files, ON_CPU), load(files, ON_CPU)
    assert json.loads(entry(cache).read_text())["value"]["tokenizer"]["backend"]
    assert says(first) == says(second)


def damage(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def damaged(content: bytes) -> bytes:
        stored = json.loads(content)
        change(stored["value"])
        return json.dumps(stored).encode()

    return damaged


@pytest.mark.parametrize(
    "damaged",
    [
        lambda content: content[:100],
        damage(lambda stored: stored.pop("tokenizer")),
        damage(lambda stored: stored["tokenizer"].update(unheard_of=1)),
        damage(lambda stored: stored.update(blueprint={"layers": 2})),
        damage(lambda stored: stored["blueprint"].update(frequencies=["x"])),
        damage(lambda stored: stored.pop("facts")),
        damage(lambda stored: stored["facts"].update(unheard_of=1)),
    ],
)
def test_a_damaged_entry_is_made_again(
    files: ModelFiles, cache: Path, damaged: Callable[[bytes], bytes]
) -> None:
    expected = says(load(files, ON_CPU))
    whole = entry(cache).read_bytes()
    entry(cache).write_bytes(damaged(whole))
    assert recall(files) is None
    assert says(load(files, ON_CPU)) == expected
    assert entry(cache).read_bytes() == whole


def test_an_entry_that_does_not_fit_the_weights_is_an_error(files: ModelFiles) -> None:
    load(files, ON_CPU)
    known = recall(files)
    assert known is not None and known.blueprint is not None
    remember(files, replace(known, blueprint=replace(known.blueprint, layers=3)))
    with pytest.raises(ModelError, match=r"there is no tensor model\.layers\.2\."):
        load(files, ON_CPU)


def test_another_version_of_a_library_is_another_entry(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(files, ON_CPU)
    assert recall(files) is not None
    monkeypatch.setattr(prepared, "version", lambda name: "99")
    assert recall(files) is None


def test_no_cache_is_no_obstacle(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (None, Path("/proc/nowhere")):
        monkeypatch.setattr(disk, "cache_folder", lambda folder=folder: folder)
        assert isinstance(load(files, ON_CPU).lm, Decoder)


def test_a_decoder_that_disagrees_is_not_used(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is run by transformers then, which the self-check has found right."""

    class Wrong(Decoder):
        def hidden(self, *arguments: Any) -> torch.Tensor:
            return super().hidden(*arguments) * 1.001

    monkeypatch.setattr(selfcheck, "Decoder", Wrong)
    with load(files, ON_CPU).lm as lm:
        assert isinstance(lm, CausalLM)
    with load(files, ON_CPU).lm as lm:
        assert isinstance(lm, CausalLM)


def test_weights_that_are_spread_are_run_by_transformers(files: ModelFiles, tmp_path: Path) -> None:
    spread = Placement(
        dtype="float32", device_map="auto", max_memory={"cpu": "60KB"}, offload_folder=tmp_path
    )
    with load(files, spread).lm as lm:
        assert isinstance(lm, CausalLM)
