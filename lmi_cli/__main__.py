"""``python -m lmi_cli``: the console script, where it is not on the path."""

from lmi_cli.cli.main import main

main()
