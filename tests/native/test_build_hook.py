"""What the wheel gets from the hook by which hatchling compiles the library in C.

Hatchling is not needed: of it, the hook uses only the class that it extends.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lmi_cli.native import compiling, variants

ROOT = compiling.FOLDER.parents[1]
NEON = next(variant for variant in variants.VARIANTS if variant.name == "neon")


class Interface:
    def __class_getitem__(cls, item: object) -> type:
        return cls

    def __init__(self) -> None:
        self.root = str(ROOT)
        self.warnings: list[str] = []
        self.app = SimpleNamespace(display_warning=self.warnings.append)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("hatchling.builders.hooks.plugin.interface")
    module.BuildHookInterface = Interface  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "lmi_cli.native.build_hook", raising=False)
    return importlib.import_module("lmi_cli.native.build_hook")


def built(hook: ModuleType) -> tuple[dict[str, Any], list[str]]:
    data: dict[str, Any] = {"artifacts": [], "pure_python": True}
    made = hook.CompileKernels()
    made.initialize("standard", data)
    return data, made.warnings


def test_without_a_library_the_wheel_is_for_every_system(
    hook: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "compilable", lambda: ())
    data, warnings = built(hook)
    assert data == {"artifacts": [], "pure_python": True}
    assert warnings == [
        "lmi will compute with torch alone: there is no code for this kind of machine"
    ]


@pytest.mark.parametrize(
    ("system", "named", "target", "tag"),
    [
        ("linux", "linux-x86_64", None, "linux_x86_64"),
        ("linux", "linux-aarch64", None, "linux_aarch64"),
        ("darwin", "macosx-10.13-universal2", None, "macosx_14_0_arm64"),
        ("darwin", "macosx-11.0-arm64", "11.0", "macosx_11_0_arm64"),
        ("darwin", "macosx-10.13-universal2", "10.9", "macosx_11_0_arm64"),
    ],
)
def test_with_libraries_it_is_for_a_system_and_its_processor(
    system: str,
    named: str,
    target: str | None,
    tag: str,
    hook: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = {variants.VARIANTS[0]: "cc failed: too old"}
    monkeypatch.setattr(variants, "compilable", lambda: (variants.VARIANTS[0], NEON))
    monkeypatch.setattr(compiling, "compile_libraries", lambda: failed)
    monkeypatch.delenv("MACOSX_DEPLOYMENT_TARGET", raising=False)
    if target is not None:
        monkeypatch.setenv("MACOSX_DEPLOYMENT_TARGET", target)
    monkeypatch.setattr(hook, "sys", SimpleNamespace(platform=system, path=[]))
    monkeypatch.setattr(hook, "sysconfig", SimpleNamespace(get_platform=lambda: named))
    host = SimpleNamespace(mac_ver=lambda: ("14.5", (), "arm64"), machine=lambda: "arm64")
    monkeypatch.setattr(hook, "platform", host)
    data, warnings = built(hook)
    folder = compiling.FOLDER.relative_to(ROOT)
    files = [Path(folder, name).as_posix() for name in (NEON.file, compiling.MANIFEST)]
    assert data == {"artifacts": files, "pure_python": False, "tag": f"py3-none-{tag}"}
    assert warnings == ["no kernels for avx512-bf16: cc failed: too old"]
