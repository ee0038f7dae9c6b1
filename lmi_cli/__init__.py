"""lmi: read text of any length with an off-the-shelf causal language model, in constant memory.

Layers, in the direction in which data flows: ``sources`` (documents to text with provenance),
``text`` (tokens and prompts), ``engine`` over ``models``, ``methods``, ``cache`` and ``attention``
(tokens to logits), ``tasks`` (questions to reports), ``cli`` (arguments to exit codes).

Importing this package imports nothing heavy; ``import lmi_cli`` never loads torch.
"""

__version__ = "0.1.0"
