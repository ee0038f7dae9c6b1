"""lmi: read text of any length with an off-the-shelf causal language model, in constant memory.

In the direction in which data flows: ``sources`` (documents to text with provenance), ``text``
(tokens and prompts), ``engine`` over ``models``, ``methods``, ``cache``, ``attention`` and
``native`` (tokens to logits), ``tasks`` (questions to reports), ``cli`` (arguments to exit codes).
``checkpoints`` finds, fetches, checks and converts model files. ``import lmi_cli`` loads nothing
heavy, in particular not torch.
"""

from lmi_cli.native import cpu, variants

__version__ = "0.1.0"

cpu.bound_active_waiting(in_c=not isinstance(variants.chosen(), str))
