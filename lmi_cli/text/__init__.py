"""Text to token ids and back: safe encoding, streaming, provenance of tokens, prompts.

Imports types of ``sources``, numpy, tokenizers and tiktoken; never torch.
"""
