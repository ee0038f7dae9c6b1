"""What is kept of every token while a stream is read: the index, the store, both or neither."""

from lmi_cli.cache.pool import BlockPool
from lmi_cli.cache.store import TokenStore
from lmi_cli.engine.engine import Engine
from lmi_cli.engine.heads import RetrievalHeads
from lmi_cli.engine.retrieval import key_index
from lmi_cli.methods import LMInfinite
from lmi_cli.models.language_model import LanguageModel
from lmi_cli.tasks.methodchoice import SINKS


def index_for(
    lm: LanguageModel, looking: RetrievalHeads, head_tokens: int, pool: BlockPool
) -> TokenStore:
    """An empty index of a document that begins behind ``head_tokens`` tokens.

    Starting tokens draw attention whatever they say, so they are not looked at.
    """
    return key_index(looking.heads, *lm.attention_heads, first=head_tokens + SINKS, pool=pool)


def store_for(
    engine: Engine, head_tokens: int, pool: BlockPool, *, int8: bool = False
) -> TokenStore | None:
    """An empty middle memory; None for a method that has no use for one.

    Args:
        engine: That will read.
        head_tokens: Tokens in front of the document.
        pool: Where memory comes from.
        int8: Whether to keep eight bits of each number.
    """
    method = engine.method
    if not isinstance(method, LMInfinite):
        return None
    layers = [spec.index for spec in engine.layers if method.reaches_back(spec)]
    first = max(head_tokens, method.sinks)
    return TokenStore(dict.fromkeys(layers), with_values=True, first=first, int8=int8, pool=pool)
