"""The shape of a model that our own decoder runs. Imports the standard library only."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from lmi_cli.native.kinds import LANES

PLAIN_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types of which our own decoder can run those that are configured as usual."""

EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"


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
        hidden: Number of components of an embedding.
        inner: Number of components inside the MLP.
        vocabulary: Number of tokens.
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
    hidden: int
    inner: int
    vocabulary: int
    epsilon: float
    inv_freq: tuple[float, ...]
    tied: bool

    @property
    def is_packable(self) -> bool:
        """Whether the library in C can pack its weights."""
        return all(size % LANES == 0 for size in (self.head_size, self.hidden, self.inner))

    def fits(self, names: Collection[str]) -> bool:
        """Whether such a model has exactly the tensors of these names."""
        unused = {f"{HEAD}.weight"} if self.tied else set()
        return set(self.shapes(names)) == set(names) - unused

    def shapes(self, names: Collection[str]) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor by name.

        Args:
            names: Names of tensors in the model, for biases and norms that it may or may not have.
        """
        queries, keys = self.heads * self.head_size, self.key_heads * self.head_size
        in_layer: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (self.hidden,),
            "post_attention_layernorm.weight": (self.hidden,),
            "self_attn.q_proj.weight": (queries, self.hidden),
            "self_attn.k_proj.weight": (keys, self.hidden),
            "self_attn.v_proj.weight": (keys, self.hidden),
            "self_attn.o_proj.weight": (self.hidden, queries),
            "mlp.gate_proj.weight": (self.inner, self.hidden),
            "mlp.up_proj.weight": (self.inner, self.hidden),
            "mlp.down_proj.weight": (self.hidden, self.inner),
        }
        biases: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj.bias": (queries,),
            "self_attn.k_proj.bias": (keys,),
            "self_attn.v_proj.bias": (keys,),
        }
        norms: dict[str, tuple[int, ...]] = {
            "self_attn.q_norm.weight": (self.head_size,),
            "self_attn.k_norm.weight": (self.head_size,),
        }
        for optional in (biases, norms):
            if any(name.endswith(tuple(optional)) for name in names):
                in_layer |= optional
        shapes: dict[str, tuple[int, ...]] = {
            f"model.layers.{layer}.{name}": shape
            for layer in range(self.layers)
            for name, shape in in_layer.items()
        }
        shapes[f"{EMBEDDING}.weight"] = (self.vocabulary, self.hidden)
        shapes["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            shapes[f"{HEAD}.weight"] = (self.vocabulary, self.hidden)
        return shapes


def declared(config: Mapping[str, Any]) -> Blueprint | None:
    """The shape that a configuration file itself declares; None where defaults would be needed.

    It serves to check tensors before a library is imported. Frequencies and epsilon are left out.
    """
    counts = {
        field: config.get(name)
        for field, name in (
            ("layers", "num_hidden_layers"),
            ("heads", "num_attention_heads"),
            ("key_heads", "num_key_value_heads"),
            ("hidden", "hidden_size"),
            ("inner", "intermediate_size"),
            ("vocabulary", "vocab_size"),
        )
    }
    numbers = {field: count for field, count in counts.items() if type(count) is int and count > 0}
    family, head_size = config.get("model_type"), config.get("head_dim")
    if family not in PLAIN_FAMILIES or len(numbers) < len(counts):
        return None
    if head_size is None and family != "qwen3":  # which has a default of its own
        head_size = numbers["hidden"] // numbers["heads"]
    if type(head_size) is not int or head_size < 1:
        return None
    return Blueprint(
        family=family,
        trained_length=0,
        head_size=head_size,
        epsilon=0.0,
        inv_freq=(),
        tied=config.get("tie_word_embeddings") is True,
        **numbers,
    )
