"""Choose what computes on the CPU: the library in C, or torch alone.

May import torch and the rest of this package.
"""

import torch

from lmi_cli.native import compiling, cpu, library, selfcheck, variants

_COST = "torch computes, which is several times slower"
_MEND = "python -m lmi_cli.native.compiling compiles it"

_computed_by = "torch"


def computed_by(dtype: torch.dtype, device: torch.device) -> str:
    """What computes: ``C`` and the instruction set, or ``torch``.

    With a reason if dtype and device would allow C.
    """
    usual = dtype == torch.bfloat16 and device.type == "cpu"
    return _computed_by if usual else "torch"


def torch_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which torch computes weights of ``dtype`` without emulating it."""
    emulated = dtype == torch.bfloat16 and device.type == "cpu" and not cpu.computes_bfloat16()
    return torch.float32 if emulated else dtype


def use_library() -> str | None:
    """Compute with the library in C if this processor can and the library is in order.

    See :func:`lmi_cli.native.variants.chosen` for how the environment changes that.

    Returns:
        What is wrong with the library and what to do about it; None if nothing is, or if it would
        be of no use here.
    """
    global _computed_by
    library.use(None)
    variant = compiling.chosen()
    if isinstance(variant, str):
        _computed_by = f"torch ({variant})"
        return f"{variant}, so {_COST}" if variant.startswith("LMI_ISA") else None
    if fault := _open(variant):
        library.use(None)
        _computed_by = f"torch ({fault})"
        return f"{fault}, so {_COST}; {_MEND}"
    _computed_by = f"C ({variant.name}{', amx' if library.uses_tiles() else ''})"
    return None


def _open(variant: variants.Variant) -> str | None:
    """Open the library; return why it cannot be used."""
    if fault := compiling.fault(variant):
        return fault
    try:
        library.use(compiling.FOLDER / variant.file)
    except (OSError, AttributeError) as error:
        return f"the library in C cannot be opened ({error})"
    if wrong := selfcheck.wrong_kernels():
        return f"the library in C computes wrongly ({', '.join(wrong)})"
    return None
