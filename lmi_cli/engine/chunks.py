"""How many tokens go through the model at once, unless told otherwise. Imports nothing."""

CHUNK = 512
"""Enough for matrix products to run at their full rate, little enough for its tensors to be small."""

OFFLOADED_CHUNK = 4096
"""Where weights lie elsewhere, each pass fetches all of them, so each should do more."""
