"""The instruction sets for which the library in C is compiled, and which of them this machine uses.

Imports the standard library and ``cpu``, since it is asked before torch is imported.
"""

import os
import platform
import sys
from dataclasses import dataclass

from lmi_cli.native import cpu

_AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512dq")


@dataclass(frozen=True, slots=True)
class Variant:
    """The library for one instruction set.

    Attributes:
        name: What ``LMI_ISA`` calls it.
        machine: The kind of processor, ``x86_64`` or ``arm64``.
        flags: For the compiler.
        features: Extensions that a processor needs to run it, as Linux names them.
    """

    name: str
    machine: str
    flags: tuple[str, ...]
    features: frozenset[str] = frozenset()

    @property
    def file(self) -> str:
        """Name of the compiled library."""
        return f"kernels-{self.name}.so"


_AVX2 = Variant("avx2", "x86_64", ("-mavx2", "-mfma", "-mf16c"), frozenset(("avx2", "fma", "f16c")))
_AVX512_PLAIN = Variant(
    "avx512",
    "x86_64",
    (*_AVX2.flags, *(f"-m{name}" for name in _AVX512)),
    _AVX2.features | frozenset(_AVX512),
)
_AVX512_BF16 = Variant(
    "avx512-bf16",
    "x86_64",
    (*_AVX512_PLAIN.flags, "-mavx512bf16", "-mavx512vnni"),
    _AVX512_PLAIN.features | frozenset(("avx512_bf16", "avx512_vnni")),
)
VARIANTS = (_AVX512_BF16, _AVX512_PLAIN, _AVX2, Variant("neon", "arm64", ()))
"""All of them, the fastest first."""

_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "arm64": "arm64", "aarch64": "arm64"}
_PLATFORMS = {"linux": ("x86_64", "arm64"), "darwin": ("arm64",)}


def compilable() -> tuple[Variant, ...]:
    """The variants for this operating system and kind of processor."""
    machine = _MACHINES.get(platform.machine().lower())
    if machine not in _PLATFORMS.get(sys.platform, ()):
        return ()
    return tuple(variant for variant in VARIANTS if variant.machine == machine)


def runnable() -> tuple[Variant, ...]:
    """Those that this processor can run, the fastest first."""
    features = cpu.features()
    return tuple(variant for variant in compilable() if variant.features <= features)


def forced() -> str | None:
    """The name of the variant that ``LMI_ISA`` in the environment demands."""
    return os.environ.get("LMI_ISA") or None


def chosen() -> Variant | str:
    """The variant to use, or why there is none.

    ``LMI_NATIVE=0`` in the environment leaves the computing to torch; ``LMI_ISA`` names a variant.
    """
    if os.environ.get("LMI_NATIVE") == "0":
        return "LMI_NATIVE is 0"
    known, able = compilable(), runnable()
    if name := forced():
        for variant in able:
            if variant.name == name:
                return variant
        names = ", ".join(variant.name for variant in able) or "none"
        return f"LMI_ISA is {name}, and this processor runs {names}"
    if able:
        return able[0]
    if known:
        missing = ", ".join(sorted(known[-1].features - cpu.features()))
        return f"the processor has no {missing}"
    return "there are no kernels for this kind of machine"
