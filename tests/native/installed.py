"""Says of each library in C of the installed lmi whether it can be used; ends with 1 if one cannot.

Needs nothing that lmi depends on. The wheels are tested by this where they are made.
"""

import ctypes
import sys

from lmi_cli.native import compiling, variants


def fault(variant: variants.Variant) -> str | None:
    found = compiling.fault(variant)
    if found is None:
        try:
            ctypes.CDLL(str(compiling.FOLDER / variant.file))
        except OSError as error:
            return str(error)
    return found


faults = {variant.name: fault(variant) for variant in variants.compilable()}
sys.stdout.write(f"{compiling.FOLDER}: {faults}\n")
sys.exit(not faults or any(faults.values()))
