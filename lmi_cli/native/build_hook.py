"""The hook by which hatchling compiles the library in C when lmi is installed or a wheel is made.

Where that is not possible, the installation succeeds without: everything works, but more slowly.
Runs in hatchling's environment, without any dependency of lmi.
"""

import os
import platform
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileKernels(BuildHookInterface[Any]):
    """Compiles the library into the package."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and mark the wheel as one for this platform."""
        sys.path.insert(0, self.root)
        from lmi_cli.native import compiling, variants

        try:
            failed = compiling.compile_libraries()
        except (compiling.CannotCompileError, OSError) as error:
            self.app.display_warning(f"lmi will compute with torch alone: {error}")
            return
        build_data["tag"] = f"py3-none-{_platform_tag()}"
        build_data["pure_python"] = False
        for variant, reason in failed.items():
            self.app.display_warning(f"no kernels for {variant.name}: {reason}")
        made = [v.file for v in variants.compilable() if v not in failed]
        for name in (*made, compiling.MANIFEST):
            path = compiling.FOLDER / name
            build_data["artifacts"].append(path.relative_to(Path(self.root)).as_posix())


def _platform_tag() -> str:
    """The system and the processor that the libraries are compiled for, as wheels name them."""
    name = sysconfig.get_platform()
    if sys.platform == "darwin":
        # Python's own name is that of an older system and of two kinds of processors.
        system = os.environ.get("MACOSX_DEPLOYMENT_TARGET") or platform.mac_ver()[0]
        name = f"macosx-{max(11, int(system.partition('.')[0]))}.0-{platform.machine()}"
    return name.replace("-", "_").replace(".", "_")
