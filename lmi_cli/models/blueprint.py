"""The shape of a model that our own decoder runs. Imports the standard library only."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A decoder of the Llama kind, as transformers understands its configuration.

    Attributes:
        family: Model type, such as ``llama``.
        trained_length: Trained length, in tokens.
        layers: Number of layers.
        heads: Number of query heads in a layer.
        key_heads: Number of key and value heads in a layer.
        head_size: Number of components of a key.
        epsilon: Added to the mean square in each normalisation.
        inv_freq: Inverse rotary frequencies in radians per token, each a float32.
        tied: Whether the output projection is the embedding.
    """

    family: str
    trained_length: int
    layers: int
    heads: int
    key_heads: int
    head_size: int
    epsilon: float
    inv_freq: tuple[float, ...]
    tied: bool

    def fits(self, names: set[str]) -> bool:
        """Whether such a model has exactly the tensors of these names."""
        known = {f"model.layers.{at}.{name}" for at in range(self.layers) for name in _IN_LAYER}
        required = known | {"model.embed_tokens.weight", "model.norm.weight"}
        allowed = required | {"lm_head.weight"}
        required = required if self.tied else allowed
        for optional in _TOGETHER:
            added = {f"model.layers.{at}.{name}" for at in range(self.layers) for name in optional}
            if added & names:
                required, allowed = required | added, allowed | added
        return required <= names <= allowed


_IN_LAYER = (
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    *(f"self_attn.{part}_proj.weight" for part in "qkvo"),
    *(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
)
_TOGETHER = (
    tuple(f"self_attn.{part}_proj.bias" for part in "qkv"),
    ("self_attn.q_norm.weight", "self_attn.k_norm.weight"),
)
