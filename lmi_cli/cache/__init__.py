"""Keys and values that are kept between chunks, state files among them.

Imports ``attention`` and ``methods``; knows no model.
"""
