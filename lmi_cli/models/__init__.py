"""From checked model files to a model that runs: loading, families, the attention hook.

The only package that runs models through transformers. What says what a model is (``known``,
``facts``, ``placement``) imports neither torch nor transformers.
"""
