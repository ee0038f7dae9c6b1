"""What transformers does not read from a GGUF file, and a conversion adds or refuses."""

from pathlib import Path
from typing import Any

import pytest
from model_builders import convert_tiny, tiny_gguf

from lmi_cli.checkpoints import gguf
from lmi_cli.checkpoints.gguf_settings import native_windows, unread_settings
from lmi_cli.errors import ModelError


class TestUnreadSettings:
    """What transformers does not read; a model without it is wrong in silence."""

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
            values = {"block_count": layers, "embedding_length": 5376, "attention.head_count": 32}
            prefixed = {f"{architecture}.{name}": value for name, value in values.items()}
            return gguf.GgufHeader(architecture, prefixed, {}, {})

        for architecture, layers in (("gemma2", 46), ("gemma3", 62)):
            added = unread_settings(tmp_path, header(architecture, layers), {})
            assert added == {"query_pre_attn_scalar": 168}
            assert unread_settings(tmp_path, header(architecture, layers - 1), {}) == {}
        assert unread_settings(tmp_path, header("llama", 62), {}) == {}

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
    """transformers reads no scaling from GGUF files; a model without it is wrong in silence."""

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

    def test_yarn_is_refused(self, tmp_path: Path) -> None:
        def extra(writer: Any) -> None:
            writer.add_string("llama.rope.scaling.type", "yarn")
            writer.add_float32("llama.rope.scaling.factor", 4.0)

        with pytest.raises(ModelError, match="scaling of rotary frequencies"):
            convert_tiny(tmp_path, extra=extra)
