"""Entry point of the ``lmi`` program: signals first, then the commands.

Imports next to nothing, so that from its first moments a signal ends the program in good order.
"""

import atexit
import os

from lmi_cli.cli import console, runner


def main() -> None:
    """Entry point of the console script.

    All that must be done at the end is done here: taking torch apart, module by module, as the
    interpreter would, takes a second and helps nobody.
    """
    console.open_missing_descriptors()
    code = runner.run(_dispatch)
    atexit._run_exitfuncs()
    os._exit(code)


def _dispatch() -> None:
    from lmi_cli.cli import app

    app.run()
