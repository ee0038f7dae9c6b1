"""Model files made by hand, sound or damaged, for the tests of checkpoints/ and models/."""

import contextlib
import json
import struct
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

U8, U32, I32, F32, STRING, ARRAY, U64 = 0, 4, 5, 6, 8, 9, 10


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name: str | bytes, kind: int, payload: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + payload


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def tensor(
    name: str | bytes, shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0
) -> bytes:
    return (
        text(name)
        + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        + struct.pack("<IQ", kind, offset)
    )


ARCHITECTURE = key("general.architecture", STRING, text("llama"))


def gguf_bytes(
    keys: tuple[bytes, ...] = (ARCHITECTURE,),
    tensors: tuple[bytes, ...] = (tensor("a"),),
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    key_count: int | None = None,
    tensor_count: int | None = None,
    data: int = 64,
    alignment: int = 32,
) -> bytes:
    """Return a GGUF file whose counts may lie."""
    head = magic + struct.pack(
        "<IQQ",
        version,
        len(tensors) if tensor_count is None else tensor_count,
        len(keys) if key_count is None else key_count,
    )
    head += b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + bytes(data)


def safetensors_bytes(header: object, data: bytes, *, length: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def span(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 16,
}


def model_folder(folder: Path, **config: Any) -> Path:
    """Write a folder that `validation.check` accepts; keywords join its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (folder / "model.safetensors").write_bytes(
        safetensors_bytes({"w": span(0, 16, [4])}, bytes(range(16)))
    )
    return folder


def quantized(weight: Any, kind: Any) -> Any:
    """A matrix in blocks; those for which the gguf package has no way are random."""
    import gguf
    import numpy as np

    with contextlib.suppress(NotImplementedError):
        return gguf.quants.quantize(weight, kind)
    columns, nbytes = gguf.GGML_QUANT_SIZES[kind]
    rows, blocks = weight.shape[0], weight.shape[1] // columns
    raw = np.random.default_rng(rows).integers(0, 256, (rows, blocks, nbytes), dtype=np.uint8)
    scale = np.array(3e-4 if kind.name == "Q6_K" else 2e-4, np.float16)
    if kind.name == "Q6_K":
        raw[..., 192:208] //= 16  # signed scales of the spans
        raw[..., 208:] = np.frombuffer(scale.tobytes(), np.uint8)
    else:
        raw[..., :4] = np.frombuffer(np.array([scale, scale * 8], np.float16).tobytes(), np.uint8)
    return raw.reshape(rows, -1)


def tiny_gguf(
    path: Path,
    *,
    architecture: str = "llama",
    pre: str = "smollm",
    leave_out: str = "",
    rope_base: float = 10000.0,
    kinds: Sequence[str] = ("Q8_0",),
    extra: Callable[[Any], None] = lambda writer: None,
    more_tokens: Sequence[str] = (),
    pieces: dict[str, tuple[int, float]] | None = None,
    **values: Any,
) -> Path:
    """Write a two-layer model with a byte-level vocabulary through the gguf package.

    Matrices are of ``kinds`` in turn. ``extra`` may add keys and tensors of its own. With
    ``pieces``, as for Gemma, the vocabulary is these, each with a type and a score.
    """
    import gguf
    import numpy as np
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    sizes = {"hidden": 32, "heads": 4, "kv_heads": 2, "layers": 2, "ff": 64}
    hidden, heads, kv_heads, layers, ff = (values.pop(name, size) for name, size in sizes.items())
    turn = cycle(kinds)
    space = "\u0120"
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *bytes_to_unicode().values()]
    merges = [f"{space} {space}", f"{space} 5"]
    tokens += [merge.replace(" ", "") for merge in merges] + [*more_tokens]
    if pieces is None and architecture.startswith("gemma"):
        pieces = dict.fromkeys(tokens[:3], (3, 0.0)) | {"<unk>": (2, 0.0)}
        pieces |= {f"<0x{byte:02X}>": (6, 0.0) for byte in range(256)} | {"\u2581\u2581": (1, 0.0)}
    if pieces is not None:
        tokens = [*pieces]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(values.pop("block_count", layers))
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(ff)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(rope_base)
    if architecture != "llama":
        writer.add_key_length(hidden // heads)
    writer.add_vocab_size(len(tokens))
    if architecture.startswith("gemma"):
        writer.add_sliding_window(12)
    types = [3, 3, 3] + [1] * (len(tokens) - 3)
    if pieces is not None:
        types = [kind for kind, _ in pieces.values()]
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([score for _, score in pieces.values()])
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_merges(merges)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    random = np.random.default_rng(0)
    kv_width = hidden // heads * kv_heads
    shapes = {"token_embd": (len(tokens), hidden), "output_norm": (hidden,)}
    in_layer = {
        "attn_norm": (hidden,),
        "attn_q": (hidden, hidden),
        "attn_k": (kv_width, hidden),
        "attn_v": (kv_width, hidden),
        "attn_output": (hidden, hidden),
        "ffn_norm": (hidden,),
        "ffn_gate": (ff, hidden),
        "ffn_up": (ff, hidden),
        "ffn_down": (hidden, ff),
    }
    if architecture.startswith("gemma"):
        in_layer |= {"post_attention_norm": (hidden,), "post_ffw_norm": (hidden,)}
    if architecture in ("gemma3", "qwen3"):
        in_layer |= dict.fromkeys(("attn_q_norm", "attn_k_norm"), (hidden // heads,))
    if architecture == "phi3":
        for name in ("attn_q", "attn_k", "attn_v", "ffn_gate"):
            del in_layer[name]
        in_layer |= {"attn_qkv": (hidden + 2 * kv_width, hidden), "ffn_up": (2 * ff, hidden)}
    for layer in range(layers):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in in_layer.items()}
    for name, shape in shapes.items():
        if name == leave_out:
            continue
        weight = random.standard_normal(shape, dtype=np.float32)
        if len(shape) == 2:
            weight *= 1.5 / np.sqrt(shape[1])  # so that attention is anything but one-hot
            kind = gguf.GGMLQuantizationType[next(turn)]
            writer.add_tensor(f"{name}.weight", quantized(weight, kind), raw_dtype=kind)
        else:
            # As in real files, a norm is a bfloat16 (to which a file of Gemma adds one).
            weight = (weight.view(np.uint32) & 0xFFFF0000).view(np.float32)
            added = np.float32(architecture.startswith("gemma"))
            writer.add_tensor(f"{name}.weight", weight + added)
    extra(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def convert_tiny(folder: Path, **options: Any) -> dict[str, Any]:
    """Convert a tiny GGUF file into a folder; return its configuration."""
    from lmi_cli.checkpoints import conversion

    path = tiny_gguf(folder / "m.gguf", **options)
    conversion.convert(path, folder)
    config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    return config
