"""The algebra of attention: positions, rotary phases, segments and the kernel.

It deals with tensors alone: no model, no cache, no text. Imports torch and ``native``.
"""
