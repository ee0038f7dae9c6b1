"""Entry point of the ``lmi`` program: signals first, then the commands.

Imports almost nothing, so that a signal ends the program cleanly from the very beginning.
"""

import atexit
import os

from lmi_cli.cli import console, runner


def main() -> None:
    """Entry point of the console script.

    Ends the process itself once the exit handlers have run: the interpreter would take another
    second to tear down torch, module by module, to no purpose.
    """
    console.open_missing_descriptors()
    code = runner.run(_dispatch)
    atexit._run_exitfuncs()
    os._exit(code)


def _dispatch() -> None:
    from lmi_cli.cli import app

    app.run()
