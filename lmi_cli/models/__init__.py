"""From a name to a model that runs: files, safe loading, families, the attention hook.

The only package that imports transformers. ``store`` and what it needs import nothing heavy.
"""
