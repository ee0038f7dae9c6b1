"""The hook by which hatchling compiles the library in C when lmi is installed or a wheel is made.

Where that is not possible, the installation succeeds without: everything works, but more slowly.
Runs in hatchling's environment, without any dependency of lmi.
"""

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
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
        build_data["pure_python"] = False
        for variant, reason in failed.items():
            self.app.display_warning(f"no kernels for {variant.name}: {reason}")
        made = [v.file for v in variants.compilable() if v not in failed]
        for name in (*made, compiling.MANIFEST):
            path = compiling.FOLDER / name
            build_data["artifacts"].append(path.relative_to(Path(self.root)).as_posix())
