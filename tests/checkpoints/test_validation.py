import builtins
import json
import os
import pickle
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from model_builders import model_folder, safetensors_bytes, span

from lmi_cli import memory
from lmi_cli.checkpoints import validation
from lmi_cli.checkpoints.tensors import HEADER_LIMIT_BYTES, read_header
from lmi_cli.errors import ModelError


def refusal(folder: Path) -> ModelError:
    """Check a folder that must be refused, within a second and in one line."""
    started = time.perf_counter()
    with pytest.raises(ModelError) as caught:
        validation.check(folder)
    assert time.perf_counter() - started < 1
    assert "\n" not in caught.value.message
    return caught.value


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | values))


def test_a_sound_folder_passes(tmp_path: Path) -> None:
    validation.check(model_folder(tmp_path))


def test_sharded_folder_passes(tmp_path: Path) -> None:
    validation.check(sharded(tmp_path))


def sharded(folder: Path) -> Path:
    model_folder(folder)
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number in (1, 2):
        name = f"model-0000{number}-of-00002.safetensors"
        header = {f"w{number}": span(0, 16, [4]), "__metadata__": {"format": "pt"}}
        (folder / name).write_bytes(safetensors_bytes(header, bytes(16)))
        weight_map[f"w{number}"] = name
    index = {"metadata": {"total_size": 32}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


class TestConfig:
    def test_missing(self, tmp_path: Path) -> None:
        assert "no config.json" in refusal(tmp_path).message

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "not valid JSON"),
            ("{", "not valid JSON"),
            ("[]", "not a JSON object"),
            ('{"a": 1, "a": 2}', "twice"),
            ("[" * 100_000, "nested too deeply"),
            ('{"a":' * 50 + "1" + "}" * 50, "nested too deeply"),
            ('{"vocab_size": ' + "9" * 5000 + "}", "not valid JSON"),
            ("{}", "no model_type"),
            ('{"model_type": 3}', "no model_type"),
        ],
    )
    def test_damaged(self, text: str, message: str, tmp_path: Path) -> None:
        (model_folder(tmp_path) / "config.json").write_text(text)
        assert message in refusal(tmp_path).message

    def test_not_utf8(self, tmp_path: Path) -> None:
        (model_folder(tmp_path) / "config.json").write_bytes(b'{"a": "\xff"}')
        assert "not valid JSON" in refusal(tmp_path).message

    def test_too_large(self, tmp_path: Path) -> None:
        with (model_folder(tmp_path) / "config.json").open("r+b") as file:
            file.truncate(2**40)
        assert "are accepted" in refusal(tmp_path).message

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("num_hidden_layers", 10**6),
            ("num_hidden_layers", -1),
            ("hidden_size", 2**31),
            ("vocab_size", 10**12),
            ("num_attention_heads", 10**5),
            ("anything", 2**63),
            ("anything", 10**400),
            ("anything", [1, 2**64]),
            ("text_config", {"num_hidden_layers": 10**6}),
        ],
    )
    def test_impossible_sizes(self, key: str, value: Any, tmp_path: Path) -> None:
        assert "is not between" in refusal(model_folder(tmp_path, **{key: value})).message

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("attn_implementation", "org/kernel"),
            ("_attn_implementation", {"text_config": "org/kernel"}),
            ("_attn_implementation_internal", "org/kernel:fn"),
            ("trust_remote_code", True),
            ("transformers_weights", "../../secret.bin"),
            ("text_config", {"_attn_implementation_internal": "org/kernel"}),
            ("vision_config", {"trust_remote_code": True}),
        ],
    )
    def test_keys_that_load_other_things(self, key: str, value: Any, tmp_path: Path) -> None:
        refusal(model_folder(tmp_path, **{key: value}))

    def test_a_usual_attention_is_ignored(self, tmp_path: Path) -> None:
        validation.check(model_folder(tmp_path, _attn_implementation="sdpa"))

    def test_an_adapter_is_not_a_model(self, tmp_path: Path) -> None:
        (model_folder(tmp_path) / "adapter_config.json").write_text("{}")
        assert "adapter" in refusal(tmp_path).message


class TestRemoteCode:
    @pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
    def test_is_refused_without_asking(
        self, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def asked(*_: object) -> str:
            raise AssertionError("input() was called")

        monkeypatch.setattr(builtins, "input", asked)
        marker = tmp_path / "ran"
        folder = model_folder(tmp_path / "evil")
        (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
        edit(folder / file, auto_map={"AutoConfig": "evil.Config"})
        error = refusal(folder)
        assert "auto_map" in error.message
        assert "never runs code" in str(error.hint)
        assert "--" not in str(error.hint), "there is no option for it"
        assert not marker.exists()


class TestTokenizer:
    def test_missing(self, tmp_path: Path) -> None:
        (model_folder(tmp_path) / "tokenizer.json").unlink()
        assert "no tokenizer" in refusal(tmp_path).message

    def test_vocab_and_merges_are_one(self, tmp_path: Path) -> None:
        (model_folder(tmp_path) / "tokenizer.json").unlink()
        for name in ("vocab.json", "merges.txt"):
            (tmp_path / name).write_text("{}")
        validation.check(tmp_path)

    def test_too_large(self, tmp_path: Path) -> None:
        with (model_folder(tmp_path) / "tokenizer.json").open("r+b") as file:
            file.truncate(2**40)
        assert "too large for a tokenizer" in refusal(tmp_path).message

    @pytest.mark.parametrize("name", ["../../x", "/etc/x", "a\\b", "", None, "x\0"])
    def test_template_names_are_no_paths(self, name: Any, tmp_path: Path) -> None:
        templates = [{"name": name, "template": "{{ x }}"}]
        edit(model_folder(tmp_path) / "tokenizer_config.json", chat_template=templates)
        assert "chat template name" in refusal(tmp_path).message

    def test_named_templates_pass(self, tmp_path: Path) -> None:
        templates = [{"name": "default", "template": ""}, {"name": "tool_use", "template": ""}]
        edit(model_folder(tmp_path) / "tokenizer_config.json", chat_template=templates)
        validation.check(tmp_path)

    def test_files_outside_the_folder(self, tmp_path: Path) -> None:
        edit(model_folder(tmp_path) / "tokenizer_config.json", tokenizer_file="/etc/passwd")
        assert "outside the folder" in refusal(tmp_path).message


class Payload:
    """Creates a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


class TestPickles:
    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.PTH"])
    def test_are_refused_and_never_opened(self, name: str, tmp_path: Path) -> None:
        marker = tmp_path / "ran"
        folder = model_folder(tmp_path / "model")
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(pickle.dumps(Payload(marker)))
        error = refusal(folder)
        assert "pickled" in error.message and name in error.message
        assert not marker.exists()

    def test_beside_safetensors_are_ignored(self, tmp_path: Path) -> None:
        (model_folder(tmp_path) / "pytorch_model.bin").write_bytes(b"anything")
        validation.check(tmp_path)

    def test_named_by_the_index(self, tmp_path: Path) -> None:
        folder = sharded(tmp_path)
        index = {"weight_map": {"w1": "pytorch_model.bin"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        assert "not safetensors" in refusal(folder).message

    def test_no_weights_at_all(self, tmp_path: Path) -> None:
        (model_folder(tmp_path) / "model.safetensors").unlink()
        assert "no model.safetensors" in refusal(tmp_path).message


DATA = bytes(32)
ATTACKS = {
    "empty": b"",
    "seven bytes": bytes(7),
    "header of 0 bytes": bytes(8),
    "header length 2**63": struct.pack("<Q", 2**63) + b"{}",
    "header longer than the file": safetensors_bytes({}, b"", length=10**6),
    "header of 100 MB": struct.pack("<Q", 10**8) + b"{}",
    "not JSON": safetensors_bytes(b"pickle", b""),
    "not an object": safetensors_bytes([], b""),
    "nested": safetensors_bytes(b'{"a":' + b"[" * 100_000, b""),
    "tensor twice": safetensors_bytes(
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":0}', b""
    ),
    "entry is a list": safetensors_bytes({"a": []}, b""),
    "unknown type": safetensors_bytes({"a": span(0, 32, [8], "EVIL")}, DATA),
    "type missing": safetensors_bytes({"a": {"shape": [8], "data_offsets": [0, 32]}}, DATA),
    "negative dimension": safetensors_bytes({"a": span(0, 32, [-8])}, DATA),
    "float dimension": safetensors_bytes(b'{"a":{"dtype":"F32","shape":[8.0]}}', DATA),
    "true as dimension": safetensors_bytes(
        b'{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', bytes(4)
    ),
    "overflowing shape": safetensors_bytes({"a": span(0, 32, [2**62, 2**62])}, DATA),
    "endless shape": safetensors_bytes({"a": span(0, 32, [2**62] * 100_000)}, DATA),
    "shape smaller than the data": safetensors_bytes({"a": span(0, 32, [4])}, DATA),
    "offsets reversed": safetensors_bytes({"a": span(32, 0, [8])}, DATA),
    "offset negative": safetensors_bytes({"a": span(-32, 0, [8])}, DATA),
    "offset past the end": safetensors_bytes({"a": span(0, 64, [16])}, DATA),
    "three offsets": safetensors_bytes(
        {"a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32, 64]}}, DATA
    ),
    "overlap": safetensors_bytes({"a": span(0, 32, [8]), "b": span(16, 32, [4])}, DATA),
    "hole": safetensors_bytes({"a": span(0, 8, [2]), "b": span(16, 32, [4])}, DATA),
    "starts late": safetensors_bytes({"a": span(16, 32, [4])}, DATA),
    "bytes left over": safetensors_bytes({"a": span(0, 16, [4])}, DATA),
    "truncated": safetensors_bytes({"a": span(0, 32, [8])}, DATA)[:-1],
}


@pytest.mark.parametrize("name", ATTACKS)
def test_damaged_safetensors(name: str, tmp_path: Path) -> None:
    (model_folder(tmp_path) / "model.safetensors").write_bytes(ATTACKS[name])
    assert "model.safetensors" in refusal(tmp_path).message


def test_a_header_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    """The file is long enough for it, so that only the limit refuses it."""
    path, length = model_folder(tmp_path) / "model.safetensors", HEADER_LIMIT_BYTES + 1
    with path.open("wb") as file:
        file.write(struct.pack("<Q", length) + b'{"a":')
        file.truncate(4 * length)
    can_measure = memory.forget_peak_rss()
    before = memory.peak_rss_bytes()
    assert "its header claims" in refusal(tmp_path).message
    assert not can_measure or memory.peak_rss_bytes() - before < HEADER_LIMIT_BYTES // 4


def test_half_byte_types_and_empty_tensors_pass(tmp_path: Path) -> None:
    header = {"a": span(0, 2, [4], "F4"), "b": span(2, 2, [0, 7]), "c": span(2, 6, [])}
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes(header, bytes(6)))
    assert [(x.name, x.shape, x.nbytes) for x in read_header(path)] == [
        ("a", (4,), 2), ("b", (0, 7), 0), ("c", (), 4),
    ]  # fmt: skip


def test_what_safetensors_writes_passes(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    path = tmp_path / "x.safetensors"
    save_file({"a": np.ones((3, 5), np.float16), "b": np.ones(2, np.bool_)}, path, {"k": "v"})
    assert {x.name: (x.shape, x.dtype) for x in read_header(path)} == {
        "a": ((3, 5), "F16"),
        "b": ((2,), "BOOL"),
    }


class TestIndex:
    @pytest.mark.parametrize("name", ["../x.safetensors", "/tmp/x.safetensors", "a/b.safetensors"])
    def test_no_file_outside_the_folder(self, name: str, tmp_path: Path) -> None:
        self.write(sharded(tmp_path), {"w1": name})
        assert "outside the folder" in refusal(tmp_path).message

    @pytest.mark.parametrize("weight_map", [{}, [], None, {"w1": 3}])
    def test_odd_maps(self, weight_map: Any, tmp_path: Path) -> None:
        self.write(sharded(tmp_path), weight_map)
        refusal(tmp_path)

    def test_missing_shard(self, tmp_path: Path) -> None:
        (sharded(tmp_path) / "model-00002-of-00002.safetensors").unlink()
        assert "lacks model-00002-of-00002.safetensors" in refusal(tmp_path).message

    def test_tensor_not_in_its_shard(self, tmp_path: Path) -> None:
        first, second = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
        self.write(sharded(tmp_path), {"w1": first, "w2": second, "w3": second})
        assert "disagree about tensor 'w3'" in refusal(tmp_path).message

    def test_tensor_not_in_the_index(self, tmp_path: Path) -> None:
        self.write(sharded(tmp_path), {"other": "model-00001-of-00002.safetensors"})
        assert "disagree" in refusal(tmp_path).message

    def test_too_many_shards(self, tmp_path: Path) -> None:
        self.write(sharded(tmp_path), {f"w{n}": f"m{n}.safetensors" for n in range(10_001)})
        assert "10,001 files" in refusal(tmp_path).message

    @staticmethod
    def write(folder: Path, weight_map: Any) -> None:
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps({"weight_map": weight_map}))


class TestFingerprint:
    def test_is_the_same_for_a_copy(self, tmp_path: Path) -> None:
        one, two = model_folder(tmp_path / "one"), model_folder(tmp_path / "two")
        assert validation.fingerprint(one) == validation.fingerprint(two)

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
    def test_changes_with_any_file(self, name: str, tmp_path: Path) -> None:
        folder = model_folder(tmp_path)
        before = validation.fingerprint(folder)
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(data)
        assert validation.fingerprint(folder) != before

    def test_does_not_count_other_files(self, tmp_path: Path) -> None:
        folder = model_folder(tmp_path)
        before = validation.fingerprint(folder)
        (folder / "README.md").write_text("hello")
        assert validation.fingerprint(folder) == before


def test_unreadable_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # chmod does not stop root, so the refusal of the system is made here.
    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    model_folder(tmp_path)
    monkeypatch.setattr(Path, "read_bytes", denied)
    assert "cannot be read: Permission denied" in refusal(tmp_path).message
