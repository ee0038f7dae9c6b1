"""Keys and values that are kept between chunks, state files among them.

Imports ``attention`` and ``methods``; knows no model.
"""

MEAN_TOKENS = 16
"""Tokens over which hidden states are averaged; see :mod:`lmi_cli.cache.means`."""
