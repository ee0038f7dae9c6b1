"""The reasons why an input is not read, in words. Imports only ``blocks``."""

from lmi_cli.sources.blocks import Skipped

EMPTY = "empty"
BLANK = "only white space"
# Left out by a rule that the user can see and change, or because there is nothing to read.
HIDDEN = "hidden"
IGNORED = "ignored by .gitignore"
EXCLUDED = "excluded"
NOT_INCLUDED = "not included"
LOCK_FILE = "lock file"
MINIFIED = "minified"
DRAWING = "SVG drawing"
SECRET = "may hold secrets"
REPOSITORY = "a repository of its own"
LINK = "symbolic link"
RULES = frozenset(
    {EMPTY, BLANK, HIDDEN, IGNORED, EXCLUDED, NOT_INCLUDED}
    | {LOCK_FILE, MINIFIED, DRAWING, SECRET, REPOSITORY, LINK}
)


def secret(kind: str) -> str:
    """The reason for a file that may hold secrets of some kind."""
    return f"{SECRET} ({kind})"


class UnreadableError(Exception):
    """One input cannot be read; the others still are.

    Args:
        reason: The text for the report.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def is_by_rule(skipped: Skipped) -> bool:
    """Whether a rule left the input out (hidden, ignored, excluded, ...) or it was empty.

    ``--strict`` is about failures: a folder counts as read in full without its ignored files.
    """
    return skipped.reason.partition(" (")[0] in RULES
