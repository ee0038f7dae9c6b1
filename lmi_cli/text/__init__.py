"""Text to token ids and back: safe encoding, streaming, provenance of tokens, prompts.

Imports ``sources`` types and numpy; its tokenizer object comes from ``models``. Knows no tensors.
"""
