"""The method and the parameters that the user chose, and the method that follows from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lmi_cli.errors import UsageError
from lmi_cli.methods.base import Circumstances, Method, Parameter, Truncation
from lmi_cli.methods.full import Full
from lmi_cli.methods.inf_llm import InfLLM
from lmi_cli.methods.lm_infinite import LMInfinite
from lmi_cli.methods.native import Native
from lmi_cli.methods.places import KeyHead
from lmi_cli.methods.self_extend import SelfExtend
from lmi_cli.methods.sir_llm import SirLLM
from lmi_cli.methods.streaming_llm import StreamingLLM
from lmi_cli.methods.truncate import Truncate

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (LMInfinite, InfLLM, StreamingLLM, SirLLM, SelfExtend, Full, Truncate, Native)
}
"""Every method by its name; the first one is the default."""

_UNLIMITED = 2**53


@dataclass(frozen=True, slots=True)
class MethodChoice:
    """The method that the user asked for; parameters that were not given get their defaults later.

    Attributes:
        name: Key of ``METHODS``.
        given: Values of its options, by name.
        by_default: Whether nobody asked for it, so that another one may take its place.

    Raises:
        UsageError: There is no such method, it has no such option, a value is out of range, or
            values contradict each other.
    """

    name: str = LMInfinite.name
    given: Mapping[str, Parameter] = field(default_factory=dict)
    by_default: bool = field(default=True, compare=False)

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise UsageError(f"unknown method {self.name!r}", hint="one of " + ", ".join(METHODS))
        known = {option.name: option for option in METHODS[self.name].options}
        for name, value in self.given.items():
            if name not in known:
                flag = "--" + name.replace("_", "-")
                raise UsageError(f"--method {self.name} has no option {flag}")
            known[name].check(value)
        # What contradicts itself does so for any model, and is said before one is loaded.
        self.build(window=_UNLIMITED, prefix_tokens=0)

    def build(
        self,
        window: int,
        prefix_tokens: int,
        *,
        trained_length: int | None = None,
        tokens: int | None = None,
        layers: int | None = None,
        retrieval: tuple[KeyHead, ...] = (),
        recurrent: bool | None = None,
    ) -> Method:
        """The method; see :meth:`Method.build` and :class:`Circumstances`.

        Without ``trained_length``, the window is the trained length.

        Raises:
            UsageError: The parameters contradict each other.
        """
        length = window if trained_length is None else trained_length
        circumstances = Circumstances(
            window, prefix_tokens, length, tokens, layers, retrieval, recurrent
        )
        return METHODS[self.name].build(self.given, circumstances)

    def truncation(self, trained_length: int) -> Truncation | None:
        """See :attr:`Method.truncation`."""
        return self.build(trained_length, 0).truncation

    def sequence_length(self, trained_length: int) -> int:
        """Tokens of the longest sequence that is read whole, as trained or as a text is cut."""
        cut = self.truncation(trained_length)
        return trained_length if cut is None else cut.length

    @property
    def needs_length(self) -> bool:
        """See :meth:`Method.needs_length`."""
        return METHODS[self.name].needs_length(self.given)

    @property
    def needs_retrieval_heads(self) -> bool:
        """See :meth:`Method.needs_retrieval_heads`."""
        return METHODS[self.name].needs_retrieval_heads(self.given)

    def searching(self, method: Method, layers: int) -> Method | None:
        """The method with the store of all tokens searched; see :meth:`Method.searching`.

        Raises:
            UsageError: The parameters contradict each other.
        """
        return method.searching(self.given, layers)

    @property
    def fixed(self) -> dict[str, Parameter]:
        """The given options that are fixed when a document is read."""
        fixed = {option.name for option in METHODS[self.name].options if option.fixed}
        return {name: value for name, value in self.given.items() if name in fixed}
