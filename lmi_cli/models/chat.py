"""The chat template of a model. Imports jinja2 and nothing heavy.

A template is a program by the model's author, so it runs in jinja's sandbox, with the same few
helpers that transformers provides.
"""

import contextlib
import ctypes
import json
import threading
from collections.abc import Iterator, Mapping, Sequence, Sized
from datetime import datetime
from math import prod
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from lmi_cli.errors import ModelError

_MOST_SECONDS = 5.0
_MOST_CHARS = 10_000_000
_LARGEST_POWER = 1_000


class ChatTemplate:
    """A model's own chat template.

    Args:
        source: The template.
        special_tokens: Variables that it may use besides the messages, such as ``bos_token``.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, Any]) -> None:
        self._source = source
        self._special_tokens = dict(special_tokens)
        self._compiled: jinja2.Template | None = None

    def render(self, messages: Sequence[Mapping[str, str]], *, answer: bool = True) -> str:
        """Text of a conversation (``role``, ``content``), up to the start of the next answer.

        Args:
            messages: The turns so far.
            answer: Open the assistant's turn at the end.

        Raises:
            ModelError: The template fails.
        """
        try:
            if self._compiled is None:
                self._compiled = _environment().from_string(self._source)
            with _within_seconds(_MOST_SECONDS):
                return self._compiled.render(
                    **self._special_tokens,
                    messages=[dict(message) for message in messages],
                    tools=None,
                    documents=None,
                    add_generation_prompt=answer,
                )
        except _TooLongError:
            raise ModelError(
                f"the model's chat template takes longer than {_MOST_SECONDS:g} s"
            ) from None
        except Exception as error:  # whatever a template makes jinja or Python raise
            raise ModelError(f"the model's chat template fails: {error}") from error


class _TooLongError(BaseException):
    """A template has used up its time; nothing in it may catch this."""


@contextlib.contextmanager
def _within_seconds(seconds: float) -> Iterator[None]:
    """Raise an error in the block if it takes longer than that.

    The error is raised between two of its Python instructions, by a timer in another thread.
    Signals would be left to the main thread alone.

    Raises:
        _TooLongError: The time is up.
    """
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    thread = ctypes.c_ulong(threading.get_ident())
    lock, running = threading.Lock(), True

    def stop() -> None:
        with lock:
            if running:
                raise_in(thread, ctypes.py_object(_TooLongError))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with lock:
            running = False
            raise_in(thread, None)  # one that has not been raised yet is not wanted any more


class _Sandbox(ImmutableSandboxedEnvironment):
    """A sandbox in which no product or power of a template takes all memory."""

    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuse results of more than a few megabytes."""
        if operator == "*":
            sizes = [len(x) if isinstance(x, Sized) else x for x in (left, right)]
            large = any(isinstance(x, Sized) for x in (left, right)) and prod(sizes) > _MOST_CHARS
        else:
            large = isinstance(right, int) and abs(right) > _LARGEST_POWER
        if large:
            raise jinja2.exceptions.SecurityError(f"the result of {operator!r} would be too large")
        return super().call_binop(context, operator, left, right)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "namespace": _PlainNamespace,
    }
    return environment


class _Generation(Extension):
    """``{% generation %}``, with which templates mark answers for training; its body is kept."""

    tags = {"generation"}  # noqa: RUF012 - as jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _PlainNamespace(Namespace):
    """A namespace that refuses names with a leading underscore."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a template must not set {name!r}")
        super().__setitem__(name, value)


def _raise(message: str) -> NoReturn:
    raise jinja2.exceptions.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON; jinja's own filter escapes it for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
