"""The method by which a model reads: what the user chose, with defaults that follow from the model.

Imports neither torch nor transformers.
"""

from lmi_cli.engine.heads import key_heads_of
from lmi_cli.errors import ModelError, UsageError
from lmi_cli.methods import KeyHead, Method, MethodChoice, Native
from lmi_cli.models.known import KnownModel


def chosen(known: KnownModel, choice: MethodChoice) -> MethodChoice:
    """The choice, which by default is ``native`` for a model without attention layers."""
    if known.facts.layers or choice != MethodChoice() or not choice.by_default:
        return choice
    return MethodChoice(Native.name)


def method_for(
    known: KnownModel,
    choice: MethodChoice,
    window: int,
    prefix_tokens: int,
    tokens: int | None = None,
) -> Method:
    """The method; for the arguments see :class:`lmi_cli.methods.Circumstances`.

    Raises:
        ModelError: The method needs retrieval heads, and none of the model are known.
        UsageError: Parameters contradict each other, or name what the model does not have.
    """
    facts, heads = known.facts, known.heads
    choice = chosen(known, choice)
    if not facts.layers and choice.name != Native.name:
        raise UsageError(
            f"{known.files.id} has no attention layers, so --method {choice.name} cannot be "
            "applied to it",
            hint="--method native reads with its recurrent state, as it does by default",
        )
    retrieval: tuple[KeyHead, ...] = ()
    if choice.needs_retrieval_heads:
        if heads is None:
            raise ModelError(
                f"the retrieval heads of {known.files.id}, which --dense-heads needs, have not "
                "been looked for",
                hint=f"find them once: lmi models calibrate {known.files.id}",
            )
        if not heads.heads:
            raise ModelError(
                f"{known.files.id} has no retrieval heads, which --dense-heads needs",
                hint=f"lmi models calibrate {known.files.id} shows its best heads",
            )
        by_layer = key_heads_of(heads.heads, facts.heads, facts.kv_heads)
        retrieval = tuple(KeyHead(layer, head) for layer in by_layer for head in by_layer[layer])
    return choice.build(
        window,
        prefix_tokens,
        trained_length=facts.trained_length,
        tokens=tokens,
        layers=len(facts.layers),
        recurrent=facts.is_recurrent,
        retrieval=retrieval,
    )
