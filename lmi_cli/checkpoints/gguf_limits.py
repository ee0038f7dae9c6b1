"""Sizes that no model in a GGUF file exceeds. Imports nothing."""

LIMITS = {
    "block_count": 1_000,
    "embedding_length": 2**17,
    "feed_forward_length": 2**20,
    "attention.head_count": 2**12,
    "attention.head_count_kv": 2**12,
    "attention.key_length": 2**13,
    "attention.value_length": 2**13,
    "vocab_size": 2**22,
    "context_length": 2**40,
    "expert_count": 2**13,
    "expert_used_count": 2**13,
    "expert_feed_forward_length": 2**20,
    "expert_shared_feed_forward_length": 2**20,
    "attention.sliding_window": 2**40,
    "full_attention_interval": 1_000,
    "nextn_predict_layers": 1_000,
    "rope.dimension_count": 2**13,
    "rope.scaling.original_context_length": 2**40,
    "shortconv.l_cache": 2**10,
    "ssm.conv_kernel": 2**10,
    "ssm.group_count": 2**12,
    "ssm.inner_size": 2**20,
    "ssm.state_size": 2**13,
    "ssm.time_step_rank": 2**17,
}
"""By key below the architecture's prefix: whole numbers from 0 to this."""
