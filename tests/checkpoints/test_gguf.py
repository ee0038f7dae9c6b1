import contextlib
import json
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_builders import (
    ARCHITECTURE,
    ARRAY,
    F32,
    STRING,
    U8,
    U32,
    convert_tiny,
    gguf_bytes,
    key,
    tensor,
    text,
    tiny_gguf,
    u32,
)

from lmi_cli import memory
from lmi_cli.checkpoints import conversion, gguf
from lmi_cli.errors import ModelError, ResourceError

HUGE = 2**63
SOUND = gguf_bytes()


def array(kind: int, count: int, payload: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + payload


def aligned(value: int) -> bytes:
    return key("general.alignment", U32, u32(value))


def llama(name: str, value: int) -> bytes:
    return key(f"llama.{name}", U32, u32(value))


DAMAGED = {
    "empty file": (b"", "too short"),
    "magic only": (b"GGUF", "too short"),
    "bad magic": (gguf_bytes(magic=b"GGML"), "not a GGUF file"),
    "pickle": (b"\x80\x04" + bytes(40), "not a GGUF file"),
    "version 0": (gguf_bytes(version=0), "big-endian"),
    "version 1": (gguf_bytes(version=1), "version 1 "),
    "version 4": (gguf_bytes(version=4), "version 4 "),
    "big-endian": (gguf_bytes(version=3 << 24), "big-endian"),
    "tensor count 2**63": (gguf_bytes(tensor_count=HUGE), "claims 9,223,"),
    "key count 2**63": (gguf_bytes(key_count=HUGE), "claims 9,223,"),
    "key count too large": (gguf_bytes(key_count=60_000), ""),
    "tensor count too large": (gguf_bytes(tensor_count=2), ""),
    "no keys": (gguf_bytes(keys=()), "architecture"),
    "architecture is a number": (
        gguf_bytes((key("general.architecture", U32, u32(1)),)),
        "architecture",
    ),
    "key length 2**63": (gguf_bytes((struct.pack("<Q", HUGE),)), "ends inside"),
    "key length 0": (gguf_bytes((ARCHITECTURE, key("", U32, u32(1)))), "empty"),
    "key too long": (gguf_bytes((key("k" * 70_000, U32, u32(1)),)), "70,000 bytes"),
    "key not utf-8": (gguf_bytes((key(b"\xff\xfe", U32, u32(1)),)), "UTF-8"),
    "duplicate key": (gguf_bytes((ARCHITECTURE, ARCHITECTURE)), "twice"),
    "string length 2**63": (
        gguf_bytes((ARCHITECTURE, key("s", STRING, struct.pack("<Q", HUGE)))),
        "ends inside",
    ),
    "unknown value type": (gguf_bytes((ARCHITECTURE, key("s", 13, b""))), "unknown type 13"),
    "array of 2**63 bytes": (
        gguf_bytes((ARCHITECTURE, key("a", ARRAY, array(U8, HUGE)))),
        "more than",
    ),
    "array of 2**63 strings": (
        gguf_bytes((ARCHITECTURE, key("a", ARRAY, array(STRING, HUGE)))),
        "more than",
    ),
    "array of floats past the end": (
        gguf_bytes((ARCHITECTURE, key("a", ARRAY, array(F32, 2**20)))),
        "ends inside",
    ),
    "array of strings past the end": (
        gguf_bytes((ARCHITECTURE, key("a", ARRAY, array(STRING, 2**20)))),
        "ends inside",
    ),
    "array with a string of 2**63": (
        gguf_bytes((ARCHITECTURE, key("a", ARRAY, array(STRING, 1, struct.pack("<Q", HUGE))))),
        "ends inside",
    ),
    "nested array": (
        gguf_bytes((ARCHITECTURE, key("a", ARRAY, array(ARRAY, 1, array(U8, 1, b"x"))))),
        "unsupported type 9",
    ),
    "array of an unknown type": (
        gguf_bytes((ARCHITECTURE, key("a", ARRAY, array(99, 1, b"x")))),
        "unsupported type 99",
    ),
    "alignment 0": (gguf_bytes((ARCHITECTURE, aligned(0))), "alignment of 0"),
    "alignment 2**30": (gguf_bytes((ARCHITECTURE, aligned(2**30))), "alignment"),
    "alignment 33": (gguf_bytes((ARCHITECTURE, aligned(33))), "alignment of 33"),
    "alignment is text": (
        gguf_bytes((ARCHITECTURE, key("general.alignment", STRING, text("32")))),
        "alignment",
    ),
    "no tensors": (gguf_bytes(tensors=()), "no tensors"),
    "tensor name empty": (gguf_bytes(tensors=(tensor(""),)), "empty"),
    "tensor name too long": (gguf_bytes(tensors=(tensor("t" * 300),)), "300 bytes"),
    "tensor name twice": (gguf_bytes(tensors=(tensor("a"), tensor("a", offset=32))), "twice"),
    "tensor without dimensions": (gguf_bytes(tensors=(tensor("a", ()),)), "0 dimensions"),
    "tensor of five dimensions": (gguf_bytes(tensors=(tensor("a", (1,) * 5),)), "5 dimensions"),
    "tensor of 2**32-1 dimensions": (
        gguf_bytes(tensors=(text("a") + u32(2**32 - 1),)),
        "dimensions",
    ),
    "dimension 0": (gguf_bytes(tensors=(tensor("a", (0,)),)), "impossible shape"),
    "dimensions overflow": (
        gguf_bytes(tensors=(tensor("a", (2**33, 2**33)),)),
        "past the end",
    ),
    "row not a whole block": (gguf_bytes(tensors=(tensor("a", (4,), 2),)), "impossible shape"),
    "unknown tensor type": (gguf_bytes(tensors=(tensor("a", (4,), 5),)), "unknown type 5"),
    "offset not aligned": (gguf_bytes(tensors=(tensor("a", offset=4),)), "not aligned"),
    "offset past the end": (gguf_bytes(tensors=(tensor("a", offset=2**40),)), "past the end"),
    "truncated data": (gguf_bytes(tensors=(tensor("a", (32,)),)), "past the end"),
    "overlapping tensors": (
        gguf_bytes(tensors=(tensor("a", (16,)), tensor("b", (4,), offset=32))),
        "overlaps",
    ),
    "a million layers": (gguf_bytes((ARCHITECTURE, llama("block_count", 10**6))), "block_count"),
    "huge width": (gguf_bytes((ARCHITECTURE, llama("embedding_length", 2**31))), "embedding"),
    "width is text": (
        gguf_bytes((ARCHITECTURE, key("llama.embedding_length", STRING, text("x")))),
        "embedding_length",
    ),
    "part of a split file": (
        gguf_bytes((ARCHITECTURE, key("split.count", U32, u32(3)))),
        "llama-gguf-split",
    ),
    # Past the end, gguf 0.19.0 reads empty arrays and does not stop.
    "43 bytes, cut inside an array's length": (
        gguf_bytes((key("a", ARRAY, array(STRING, 2**62))[:19],), (), data=0)[:43].ljust(43, b"\0"),
        "",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_headers_are_refused_at_once(name: str, tmp_path: Path) -> None:
    data, message = DAMAGED[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    started = time.perf_counter()
    with pytest.raises(ModelError) as caught:
        gguf.read_header(path)
    assert time.perf_counter() - started < 1
    assert message in caught.value.message
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    for cut in range(len(SOUND) - 64 + 16):
        path.write_bytes(SOUND[:cut])
        with pytest.raises(ModelError):
            gguf.read_header(path)


@settings(max_examples=200, deadline=10_000)  # a hang, not a busy machine
@given(position=st.integers(4, len(SOUND) - 65), byte=st.integers(0, 255))
def test_a_changed_byte_is_accepted_or_refused_never_a_crash(
    position: int, byte: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.gguf"
    path.write_bytes(SOUND[:position] + bytes([byte]) + SOUND[position + 1 :])
    with contextlib.suppress(ModelError):
        gguf.read_header(path)


def test_memory_stays_flat_on_a_file_of_lies(tmp_path: Path) -> None:
    # 256 MB of zeros after a header that claims four million strings.
    path = tmp_path / "model.gguf"
    path.write_bytes(
        gguf_bytes((ARCHITECTURE, key("a", ARRAY, array(STRING, 2**22))), (), data=0, alignment=1)
    )
    with path.open("r+b") as file:
        file.truncate(2**28)
    code = (
        "import sys, pathlib\n"
        "from lmi_cli.checkpoints import gguf\n"
        "from lmi_cli.errors import ModelError\n"
        "try: gguf.read_header(pathlib.Path(sys.argv[1]))\n"
        "except ModelError: pass\n"
        # Not ru_maxrss, which starts from the size of the process that runs the tests.
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "sys.exit(int(status.partition('VmHWM:')[2].split()[0]) > 400_000)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], timeout=20).returncode == 0


def test_sound_header(tiny_gguf: Path) -> None:
    header = gguf.read_header(tiny_gguf)
    assert header.architecture == "llama"
    assert header.values["llama.block_count"] == 2
    assert header.values["tokenizer.ggml.pre"] == "smollm"
    assert header.array_lengths["tokenizer.ggml.merges"] == 2
    assert header.largest_tensor_elements == 261 * 32


def test_block_sizes_are_those_of_the_gguf_package() -> None:
    constants = pytest.importorskip("gguf.constants")
    theirs = {int(kind): size for kind, size in constants.GGML_QUANT_SIZES.items()}
    assert {kind: theirs[kind] for kind in gguf.BLOCKS if kind in theirs} == gguf.BLOCKS


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        gguf.read_header(tmp_path / "none.gguf")


def test_converted_configuration_is_clean(converted: Path) -> None:
    config = json.loads((converted / "config.json").read_bytes())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert config["tie_word_embeddings"] is True
    assert "quantization_config" not in config
    generation = json.loads((converted / "generation_config.json").read_bytes())
    assert (generation["bos_token_id"], generation["eos_token_id"]) == (1, 2)


def test_digits_split_first_in_smollm_vocabularies(converted: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(converted), trust_remote_code=False)
    ids = tokenizer("a  55 5")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["a", "ĠĠ", "5", "5", "Ġ", "5"]
    assert tokenizer.decode(ids) == "a  55 5"
    assert tokenizer("<|im_start|>a")["input_ids"][0] == 1
    assert tokenizer.bos_token == "<|im_start|>"
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    assert tokenizer.chat_template.startswith("{% for m")


def test_other_vocabularies_keep_their_split(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "gpt2.gguf", pre="gpt-2")
    (tmp_path / "out").mkdir()
    conversion.convert(path, tmp_path / "out")
    split = json.loads((tmp_path / "out" / "tokenizer.json").read_bytes())["pre_tokenizer"]
    assert "Digits" not in json.dumps(split)


def test_conversion_says_nothing(
    tiny_gguf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    conversion.convert(tiny_gguf, tmp_path)
    assert capfd.readouterr() == ("", "")


def test_converted_size_is_compared_with_memory_first(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 10**8)
    with pytest.raises(ResourceError, match=r"takes 0\.5 GB .* 0\.1 GB is free"):
        conversion.convert(tiny_gguf, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "big.gguf", block_count=900)
    with pytest.raises(ModelError, match="describes a model of"):
        conversion.convert(path, tmp_path)


def test_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "gap.gguf", leave_out="blk.1.ffn_norm")
    with pytest.raises(ModelError, match=r"describes|lacks"):
        conversion.convert(path, tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nonesuch", "is not supported"), ("gpt2", "learned absolute"), ("t5", "encoder-decoder")],
)
def test_an_unknown_architecture_is_one_line(name: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(gguf_bytes((key("general.architecture", STRING, text(name)),)))
    with pytest.raises(ModelError, match=reason) as caught:
        conversion.convert(path, tmp_path)
    assert "\n" not in caught.value.message
    assert "qwen3moe" in str(caught.value.hint)


def test_an_unknown_way_to_split_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="its tokenizer splits text in an unknown way"):
        convert_tiny(tmp_path, pre="mine")


def test_the_end_of_a_turn_ends_the_text(tmp_path: Path) -> None:
    convert_tiny(tmp_path, extra=lambda writer: writer.add_eot_token_id(0))
    generation = json.loads((tmp_path / "generation_config.json").read_bytes())
    assert generation["eos_token_id"] == [2, 0]
