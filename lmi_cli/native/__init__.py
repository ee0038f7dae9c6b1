"""Kernels in C for processors with AVX512-BF16, and their bindings.

The library is compiled by :mod:`lmi_cli.native.compiling` on first use and opened by
:func:`lmi_cli.native.library.use`; until then, and for everything it does not cover, torch
computes. It affects only speed. Imports torch, ``disk``, and types of ``attention``.
"""
