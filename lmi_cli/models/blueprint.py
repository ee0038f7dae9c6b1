"""The shape of a model that our own decoder runs. Imports the standard library only."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

from lmi_cli.native.kinds import LANES

EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"

DECLARING_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types of which a configuration file alone tells the shapes of all tensors."""


@dataclass(frozen=True, slots=True)
class LayerLayout:
    """How the layers of a family are put together.

    A layer is attention and an MLP; what each makes of its inputs is added to the residual.

    Attributes:
        before_attention: Name of the norm of the inputs of attention; None if there is none.
        after_attention: Likewise of its outputs.
        before_mlp: Likewise of the inputs of the MLP.
        after_mlp: Likewise of its outputs.
        norm_offset: What is added to each normalisation weight.
        norm_twice: Whether the quotient in a norm is rounded before it is multiplied.
        whole_norms: Whether all queries of a token are normalised together, and all its keys.
        fused: Whether the projections to queries, keys and values are one tensor, and the inner
            ones of the MLP another.
    """

    before_attention: str | None = "input_layernorm"
    after_attention: str | None = None
    before_mlp: str | None = "post_attention_layernorm"
    after_mlp: str | None = None
    norm_offset: float = 0.0
    norm_twice: bool = True
    whole_norms: bool = False
    fused: bool = False

    @property
    def norms(self) -> tuple[str | None, ...]:
        """Names of the four norms of the residual and of what is added to it, in their order."""
        return (self.before_attention, self.after_attention, self.before_mlp, self.after_mlp)


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A decoder whose layers are attention and a gated MLP, as transformers understands it.

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
        frequencies: Sets of inverse rotary frequencies in radians per token, each a float32.
        rotaries: By layer, the index of its set; None for a layer without position embedding.
        windows: By layer, its own sliding window in tokens; None for one that sees everything.
        tied: Whether the output projection is the embedding.
        layout: How a layer is put together.
        activation: Of the gate of the MLP: ``silu`` or ``gelu_pytorch_tanh``.
        score_scale: Factor on each score; None for one over the root of the head size.
        softcap: Cap of scores; see :func:`lmi_cli.attention.kernel.attend`.
        embedding_scale: Factor on embeddings, rounded to their dtype first.
        residual_scale: Factor on what a layer adds to the residual.
        logits_divisor: What logits are divided by.
        logits_softcap: Cap of logits.
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
    frequencies: tuple[tuple[float, ...], ...]
    rotaries: tuple[int | None, ...]
    windows: tuple[int | None, ...]
    tied: bool
    layout: LayerLayout = LayerLayout()
    activation: str = "silu"
    score_scale: float | None = None
    softcap: float | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logits_divisor: float = 1.0
    logits_softcap: float | None = None

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The blueprint of which :func:`dataclasses.asdict` made ``stored``, by way of JSON.

        Raises:
            KeyError, TypeError, ValueError: It is damaged.
        """
        sets = tuple(tuple(map(float, each)) for each in stored["frequencies"])
        by_layer = {name: tuple(stored[name]) for name in ("rotaries", "windows")}
        layout = LayerLayout(**stored["layout"])
        return cls(**{**stored, **by_layer, "frequencies": sets, "layout": layout})

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
        outputs = {"q": queries, "k": keys, "v": keys}
        in_layer: dict[str, tuple[int, ...]] = {
            f"{name}.weight": (self.hidden,) for name in self.layout.norms if name is not None
        }
        if self.layout.fused:
            in_layer["self_attn.qkv_proj.weight"] = (queries + 2 * keys, self.hidden)
            in_layer["mlp.gate_up_proj.weight"] = (2 * self.inner, self.hidden)
        else:
            for name, rows in outputs.items():
                in_layer[f"self_attn.{name}_proj.weight"] = (rows, self.hidden)
            in_layer["mlp.gate_proj.weight"] = (self.inner, self.hidden)
            in_layer["mlp.up_proj.weight"] = (self.inner, self.hidden)
        in_layer["self_attn.o_proj.weight"] = (self.hidden, queries)
        in_layer["mlp.down_proj.weight"] = (self.hidden, self.inner)
        biases: dict[str, tuple[int, ...]] = {
            f"self_attn.{name}_proj.bias": (rows,) for name, rows in outputs.items()
        }
        whole = self.layout.whole_norms
        norms: dict[str, tuple[int, ...]] = {
            "self_attn.q_norm.weight": (queries if whole else self.head_size,),
            "self_attn.k_norm.weight": (keys if whole else self.head_size,),
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

    It serves to check tensors before a library is imported. Numbers that no shape depends on are
    left out.
    """
    names = (
        "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "hidden_size", "intermediate_size", "vocab_size",
    )  # fmt: skip
    counts = [count for name in names if type(count := config.get(name)) is int and count > 0]
    family, head_size = config.get("model_type"), config.get("head_dim")
    if family not in DECLARING_FAMILIES or len(counts) < len(names):
        return None
    layers, heads, key_heads, hidden, inner, vocabulary = counts
    if head_size is None and family != "qwen3":  # which has a default of its own
        head_size = hidden // heads
    if type(head_size) is not int or head_size < 1:
        return None
    return Blueprint(
        family=family,
        trained_length=0,
        layers=layers,
        heads=heads,
        key_heads=key_heads,
        head_size=head_size,
        hidden=hidden,
        inner=inner,
        vocabulary=vocabulary,
        epsilon=0.0,
        frequencies=(),
        rotaries=(),
        windows=(),
        tied=config.get("tie_word_embeddings") is True,
    )
