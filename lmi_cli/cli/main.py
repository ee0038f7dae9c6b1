"""Entry point of the ``lmi`` program: signals first, then the commands.

Imports next to nothing, so that from its first moments a signal ends the program in good order.
"""

import sys

from lmi_cli.cli import console, runner


def main() -> None:
    """Entry point of the console script."""
    console.open_missing_descriptors()
    sys.exit(runner.run(_dispatch))


def _dispatch() -> None:
    from lmi_cli.cli import app

    app.run()
