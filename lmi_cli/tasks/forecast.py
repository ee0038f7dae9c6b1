"""What a plan takes in memory and time. Pure functions; imports neither torch nor transformers."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from lmi_cli.attention.segment import KEYS_PER_CLUSTER
from lmi_cli.cache import MEAN_TOKENS
from lmi_cli.engine.heads import key_heads_of
from lmi_cli.methods.base import bound, layer_capacity, named_parameters
from lmi_cli.models.known import KnownModel
from lmi_cli.models.speeds import setting_of

if TYPE_CHECKING:
    from lmi_cli.tasks.plan import Plan

# A growing cache is allocated half as large again as its contents.
_GROWTH = 1.5


def with_forecast(plan: "Plan", known: KnownModel, tokens: int | None, use: str) -> "Plan":
    """Complete a plan with its memory and time; ``use`` is ``read`` or ``score``."""
    facts = known.facts
    total = None if tokens is None else len(plan.prefix) + tokens
    growing = math.inf if total is None else round(_GROWTH * max(total, plan.longest or 0))
    layers = facts.layers[: plan.depth]
    kept = sum(layer_capacity(plan.method, layer, plan.chunk, growing) for layer in layers)
    setting = speed_setting(use, plan)
    rate = None if plan.only_text else known.speeds.get(setting)
    unknown = tokens is None or plan.needs_heads
    # A state that sums up is kept in float32 at least.
    carried = facts.recurrent_bytes * max(1, plan.precision.itemsize // 4)
    layer_bytes = facts.layer_bytes_per_token(plan.precision.dtype)
    return replace(
        plan,
        bound_tokens=bound(plan.method, facts.layers, plan.chunk),
        cache_bytes=None if math.isinf(kept) else math.ceil(kept) * layer_bytes + carried,
        store_bytes=None if unknown else (tokens or 0) * _kept_bytes_per_token(plan, known),
        weights_bytes=facts.weights_bytes(plan.precision.dtype, plan.precision.quantize),
        prefill_s=None if rate is None or total is None else total / rate,
    )


def speed_setting(use: str, plan: "Plan") -> str:
    """What the speed of reading by a plan depends on; ``use`` is ``read`` or ``score``."""
    parameters = named_parameters(plan.method)
    if plan.depth is not None:
        parameters["depth"] = plan.depth
    return setting_of(use, plan.precision.name, parameters)


def _kept_bytes_per_token(plan: "Plan", known: KnownModel) -> int:
    """Size of index and store per token of a text."""
    facts, item = known.facts, plan.precision.itemsize
    kept = 0
    if plan.index and known.heads is not None:
        by_layer = key_heads_of(known.heads.heads, facts.heads, facts.kv_heads)
        kept += sum(map(len, by_layer.values())) * facts.head_dim * item
    if plan.embeddings:
        kept += facts.hidden * item // MEAN_TOKENS
    if plan.searching is not None:
        layers = sum(map(plan.method.may_search, facts.layers))
        number = facts.pair_dim + 2 * item if plan.int8 else facts.pair_dim * item
        kept += layers * facts.kv_heads * number
        if plan.searching.searches_clusters(facts.layers):
            kept += layers * facts.kv_heads * (facts.head_dim * 4 // KEYS_PER_CLUSTER + 2)
    return kept
