"""What computed the passes of an engine, counted while they were made. Imports nothing of ours."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Counts of passes, and of the attention of single layers.

    Attributes:
        passes: Passes through the model.
        whole: Those for which the model took all layers in one call, attention included.
        refused: The others, by the reason why it took the layers one by one.
        attention: Attentions of single layers, by what computed them: ``C``, or ``torch`` with the
            reason. Passes in one call have none.
    """

    passes: int = 0
    whole: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    attention: Counter[str] = field(default_factory=Counter)
