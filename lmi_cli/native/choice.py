"""Choose what computes on the CPU: the library in C, or torch alone.

May import torch and the rest of this package.
"""

import os

import torch

from lmi_cli.native import compiling, cpu, library, selfcheck

_NEEDED = frozenset(
    ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "avx512_vnni", "fma")
)
_MEND = "python -m lmi_cli.native.compiling compiles it"

_folder = compiling.FOLDER
_computed_by = "torch"


def computed_by(dtype: torch.dtype, device: torch.device) -> str:
    """What computes: ``C``, or ``torch``, with a reason if dtype and device would allow C."""
    usual = dtype == torch.bfloat16 and device.type == "cpu"
    return _computed_by if usual else "torch"


def use_library() -> str | None:
    """Compute with the library in C if this processor can and the library is in order.

    ``LMI_NATIVE=0`` in the environment leaves the computing to torch.

    Returns:
        What is wrong with the library and what to do about it; None if nothing is, or if it would
        be of no use here.
    """
    global _computed_by
    library.use(None)
    if reason := _not_wanted():
        _computed_by = f"torch ({reason})"
        return None
    if fault := _fault():
        library.use(None)
        _computed_by = f"torch ({fault})"
        return f"{fault}, so torch computes, which is several times slower; {_MEND}"
    _computed_by = "C"
    return None


def _not_wanted() -> str | None:
    """Why the library is not used here even if it is in order."""
    if os.environ.get("LMI_NATIVE") == "0":
        return "LMI_NATIVE is 0"
    if not (compiling.is_supported() and cpu.computes_bfloat16()):
        return "the processor has no AVX512-BF16"
    if missing := _NEEDED - cpu.features():
        return f"the processor has no {', '.join(sorted(missing))}"
    return None


def _fault() -> str | None:
    """Open the library; return why it cannot be used."""
    try:
        changed = compiling.changed_since(_folder)
    except OSError:
        return "the library in C has not been compiled"
    if compiling.LIBRARY in changed:
        return "the library in C is damaged"
    if changed:
        return f"the library in C is out of date ({', '.join(changed[:3])})"
    try:
        library.use(_folder / compiling.LIBRARY)
    except (OSError, AttributeError) as error:
        return f"the library in C cannot be opened ({error})"
    if wrong := selfcheck.wrong_kernels():
        return f"the library in C computes wrongly ({', '.join(wrong)})"
    return None
