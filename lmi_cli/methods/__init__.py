"""The methods by which a model reads: one frozen dataclass each, and the table of them.

A method says which keys a query sees and which the cache keeps; it computes nothing. Imports
``attention`` only. Adding a method is one file here and one row in ``METHODS``.
"""

from lmi_cli.methods.base import Circumstances, Method, MethodOption, Parameter
from lmi_cli.methods.choice import METHODS, MethodChoice
from lmi_cli.methods.full import Full
from lmi_cli.methods.inf_llm import InfLLM
from lmi_cli.methods.lm_infinite import LMInfinite
from lmi_cli.methods.native import Native
from lmi_cli.methods.places import KeyHead
from lmi_cli.methods.self_extend import SelfExtend
from lmi_cli.methods.sir_llm import SirLLM
from lmi_cli.methods.streaming_llm import StreamingLLM
from lmi_cli.methods.truncate import Truncate

__all__ = [
    "METHODS",
    "Circumstances",
    "Full",
    "InfLLM",
    "KeyHead",
    "LMInfinite",
    "Method",
    "MethodChoice",
    "MethodOption",
    "Native",
    "Parameter",
    "SelfExtend",
    "SirLLM",
    "StreamingLLM",
    "Truncate",
]
