"""Settings that a GGUF file gives or implies, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from model_builders import convert_tiny, tiny_gguf

from lmi_cli.checkpoints import gguf
from lmi_cli.checkpoints.gguf_settings import native_windows, settings_of
from lmi_cli.errors import ModelError


class TestSettings:
    """A model without one of these is wrong in silence."""

    def test_only_full_layers_of_gemma_3_are_scaled(self, tmp_path: Path) -> None:
        def extra(writer: Any) -> None:
            writer.add_string("gemma3.rope.scaling.type", "linear")
            writer.add_float32("gemma3.rope.scaling.factor", 8.0)

        saved = convert_tiny(tmp_path, architecture="gemma3", layers=6, extra=extra)
        rope = saved["rope_parameters"]
        assert (rope["full_attention"]["rope_type"], rope["full_attention"]["factor"]) == (
            "linear",
            8,
        )
        assert rope["sliding_attention"] == {"rope_type": "default", "rope_theta": 10_000.0}

    def test_the_largest_gemma_scales_scores_in_another_way(self, tmp_path: Path) -> None:
        def header(architecture: str, layers: int) -> gguf.GgufHeader:
            values: dict[str, gguf.Scalar] = dict.fromkeys(
                (
                    "context_length", "feed_forward_length", "attention.head_count_kv",
                    "attention.layer_norm_rms_epsilon",
                ),
                1,
            )  # fmt: skip
            values |= {"block_count": layers, "embedding_length": 5376, "attention.head_count": 32}
            values["attention.key_length"] = 128
            prefixed = {f"{architecture}.{name}": value for name, value in values.items()}
            embedding = gguf.GgufTensor(0, (10, 5376), 0)
            return gguf.GgufHeader(architecture, prefixed, {}, {"token_embd.weight": embedding})

        for architecture, layers in (("gemma2", 46), ("gemma3", 62)):
            scales = [
                settings_of(tmp_path, header(architecture, count))["query_pre_attn_scalar"]
                for count in (layers, layers - 1)
            ]
            assert scales == [168, 128]

    def test_windows_of_all_layers_of_phi_3(self, tmp_path: Path) -> None:
        saved = convert_tiny(
            tmp_path, architecture="phi3", extra=lambda writer: writer.add_sliding_window(2047)
        )
        assert saved["sliding_window"] == 2047

    def test_windows_of_an_unknown_architecture_are_refused(self, tmp_path: Path) -> None:
        path = tiny_gguf(tmp_path / "m.gguf", extra=lambda writer: writer.add_sliding_window(64))
        with pytest.raises(ModelError, match="have a window of 64 tokens"):
            native_windows(path, gguf.read_header(path), 2)


class TestScaledRope:
    """Rotary frequencies that are not those of the base."""

    BASE = 500_000.0

    def test_llama3(self, tmp_path: Path) -> None:
        import numpy as np
        import torch
        from transformers import LlamaConfig
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        wanted = {
            "rope_type": "llama3",
            "rope_theta": self.BASE,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        config = LlamaConfig(hidden_size=32, num_attention_heads=4, rope_parameters=wanted)
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
        plain = self.BASE ** -(torch.arange(0, 8, 2) / 8)
        factors = (plain / scaled).numpy().astype(np.float32)

        def extra(writer: Any) -> None:
            writer.add_tensor("rope_freqs.weight", factors)

        saved = convert_tiny(tmp_path, rope_base=self.BASE, extra=extra)
        assert saved["rope_parameters"] == wanted

    def test_linear(self, tmp_path: Path) -> None:
        def extra(writer: Any) -> None:
            writer.add_string("llama.rope.scaling.type", "linear")
            writer.add_float32("llama.rope.scaling.factor", 4.0)

        rope = convert_tiny(tmp_path, extra=extra)["rope_parameters"]
        assert (rope["rope_type"], rope["factor"]) == ("linear", 4.0)

    def test_plain(self, tmp_path: Path) -> None:
        def extra(writer: Any) -> None:
            writer.add_string("llama.rope.scaling.type", "none")

        assert convert_tiny(tmp_path, extra=extra)["rope_parameters"]["rope_type"] == "default"

    @pytest.mark.parametrize("factors", [[1, 1, 1, 9], [0, 0, 0, 0], [1, 2, 3, float("nan")]])
    def test_other_factors_are_refused(self, factors: list[float], tmp_path: Path) -> None:
        import numpy as np

        def extra(writer: Any) -> None:
            writer.add_tensor("rope_freqs.weight", np.array(factors, np.float32))

        with pytest.raises(ModelError, match="scaling of rotary frequencies"):
            convert_tiny(tmp_path, extra=extra)

    def test_yarn(self, tmp_path: Path) -> None:
        def extra(writer: Any) -> None:
            writer.add_string("llama.rope.scaling.type", "yarn")
            writer.add_float32("llama.rope.scaling.factor", 4.0)
            writer.add_uint32("llama.rope.scaling.original_context_length", 32)

        rope = convert_tiny(tmp_path, extra=extra)["rope_parameters"]
        assert (rope["rope_type"], rope["factor"]) == ("yarn", 4.0)
        assert rope["original_max_position_embeddings"] == 32

        def scaled(writer: Any) -> None:
            extra(writer)
            writer.add_float32("llama.rope.scaling.yarn_ext_factor", 0.5)

        with pytest.raises(ModelError, match=r"its yarn_ext_factor of 0\.5 is not supported"):
            convert_tiny(tmp_path, extra=scaled)

    def test_longrope(self, tmp_path: Path) -> None:
        import numpy as np

        lists = {"long": [1.0, 2.0, 4.0, 8.0], "short": [1.0, 1.0, 1.25, 1.5]}

        def extra(writer: Any) -> None:
            writer.add_uint32("phi3.rope.scaling.original_context_length", 32)
            for name, factors in lists.items():
                writer.add_tensor(f"rope_factors_{name}.weight", np.array(factors, np.float32))

        rope = convert_tiny(tmp_path, architecture="phi3", extra=extra)["rope_parameters"]
        assert (rope["long_factor"], rope["short_factor"]) == (lists["long"], lists["short"])
        assert (rope["rope_type"], rope["original_max_position_embeddings"]) == ("longrope", 32)

    def test_a_part_of_each_head(self, tmp_path: Path) -> None:
        def half(architecture: str) -> dict[str, Any]:
            return convert_tiny(
                tmp_path,
                architecture=architecture,
                extra=lambda writer: writer.add_rope_dimension_count(4),
            )

        assert half("phi3")["rope_parameters"]["partial_rotary_factor"] == 0.5
        with pytest.raises(ModelError, match="rotates 4 of 8 components"):
            half("qwen3")

    def test_another_kind_is_refused(self, tmp_path: Path) -> None:
        def extra(writer: Any) -> None:
            writer.add_string("llama.rope.scaling.type", "ntk")
            writer.add_float32("llama.rope.scaling.factor", 4.0)

        with pytest.raises(ModelError, match="scaling of rotary frequencies"):
            convert_tiny(tmp_path, extra=extra)
