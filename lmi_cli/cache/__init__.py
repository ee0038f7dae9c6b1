"""What is kept of a stream between chunks: the keys and values of each layer.

Imports ``attention`` and ``methods``; knows no model.
"""
