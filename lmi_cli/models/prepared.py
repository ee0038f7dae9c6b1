"""What transformers made of a model's files, kept so that later starts do without transformers.

The first start of a model imports transformers, which takes seconds: it reads configuration and
tokenizer in all their forms, and the self-check compares small models. The result is small. A
record is valid for one model and one set of library versions; a damaged one is made again. Imports
nothing heavy.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tokenizers

from lmi_cli import __version__
from lmi_cli.checkpoints.resolve import ModelFiles
from lmi_cli.disk import Record
from lmi_cli.errors import ModelError
from lmi_cli.models.blueprint import Blueprint
from lmi_cli.models.chat import ChatTemplate
from lmi_cli.models.facts import ModelFacts
from lmi_cli.text.tokenizer import Tokenizer

_SCHEMA = 7
_TOKENIZER = "tokenizer.json"
_LIBRARIES = ("torch", "transformers", "tokenizers")


@dataclass(frozen=True, slots=True)
class PreparedTokenizer:
    """Everything that ``text`` needs of a model's tokenizer.

    Attributes:
        bos_id: Token that begins every sequence, if the model expects one.
        stop_ids: Tokens that end an answer.
        template: Source of the chat template, if there is one.
        special_tokens: Texts that the template may refer to by name.
        backend: The tokenizer as JSON; None if it is the ``tokenizer.json`` of the folder.
    """

    bos_id: int | None
    stop_ids: tuple[int, ...]
    template: str | None
    special_tokens: Mapping[str, Any] = field(default_factory=dict)
    backend: str | None = None

    def build(self, folder: Path) -> tuple[Tokenizer, ChatTemplate | None]:
        """The tokenizer of the model in ``folder``, and its chat template.

        Raises:
            ModelError: The tokenizer's library fails with it.
            ValueError: The stored tokenizer is damaged.
        """
        text = self.backend or (folder / _TOKENIZER).read_text(encoding="utf-8")
        try:
            backend = tokenizers.Tokenizer.from_str(text)
            tokenizer = Tokenizer(backend, bos_id=self.bos_id, stop_ids=self.stop_ids)
        except ModelError:
            raise
        except Exception as error:  # tokenizers raises plain Exception
            raise ValueError(f"the tokenizer cannot be read: {error}") from error
        if self.template is None:
            return tokenizer, None
        return tokenizer, ChatTemplate(self.template, self.special_tokens)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that has passed the self-check.

    Attributes:
        facts: Its shape.
        tokenizer: Its tokenizer.
        blueprint: Its shape for our own decoder; None if that cannot run it.
    """

    facts: ModelFacts
    tokenizer: PreparedTokenizer
    blueprint: Blueprint | None


def recall(files: ModelFiles) -> Prepared | None:
    """Return what is kept of a model for these versions of the libraries; None if nothing is."""
    stored = _record(files).read()
    with contextlib.suppress(ValueError, KeyError, TypeError):
        facts = ModelFacts.from_json(stored["facts"])
        blueprint = stored["blueprint"]
        if blueprint is not None:
            blueprint = Blueprint.from_json(blueprint)
        return Prepared(facts, PreparedTokenizer(**stored["tokenizer"]), blueprint)
    return None


def remember(files: ModelFiles, prepared: Prepared) -> bool:
    """Keep the result of a first start; if it cannot be written (False), the next is as slow."""
    return _record(files).write(asdict(prepared))


def _record(files: ModelFiles) -> Record:
    versions = [f"lmi {__version__}", *(f"{library} {version(library)}" for library in _LIBRARIES)]
    return Record("prepared", ", ".join((files.identity, f"schema {_SCHEMA}", *versions)))
