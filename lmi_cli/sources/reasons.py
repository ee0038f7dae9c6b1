"""Why an input is not read, in words. Imports only ``blocks``."""

from lmi_cli.sources.blocks import Skipped

EMPTY = "empty"
BLANK = "only white space"
# Left out by a rule that the user can see and change, or with nothing in it to read.
HIDDEN = "hidden"
IGNORED = "ignored by .gitignore"
EXCLUDED = "excluded"
NOT_INCLUDED = "not included"
LOCK_FILE = "lock file"
MINIFIED = "minified"
PRIVATE_KEY = "private key"
REPOSITORY = "a repository of its own"
LINK = "symbolic link"
RULES = frozenset(
    {EMPTY, BLANK, HIDDEN, IGNORED, EXCLUDED, NOT_INCLUDED}
    | {LOCK_FILE, MINIFIED, PRIVATE_KEY, REPOSITORY, LINK}
)


class UnreadableError(Exception):
    """Stops the reading of one input; the others go on.

    Args:
        reason: What goes into the report.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def is_by_rule(skipped: Skipped) -> bool:
    """Whether a rule left the input out (hidden, ignored, excluded ...) or it was empty.

    ``--strict`` is about failures: a folder whose ignored files are not read was read in full.
    """
    return skipped.reason.partition(" (")[0] in RULES
