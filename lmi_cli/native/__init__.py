"""Kernels in C for AVX2, AVX-512, AVX512-BF16 and NEON, and their bindings.

The library is compiled when lmi is installed (:mod:`lmi_cli.native.compiling`) and opened by
:mod:`lmi_cli.native.choice`; until then, and for everything it does not cover, torch computes. It
affects only speed. Imports torch and ``attention``.
"""
