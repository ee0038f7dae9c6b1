"""How many tokens go through the model at once, unless told otherwise. Imports nothing."""

CHUNK = 512
"""Enough for matrix products at their full rate, few enough for small tensors."""

OFFLOADED_CHUNK = 4096
"""Where weights lie elsewhere, each pass fetches all of them, so each should do more."""
