"""The algebra of attention: positions, rotary phases, segments and the kernel.

Knows tensors and nothing else: no model, no cache, no text. Imports torch only.
"""
