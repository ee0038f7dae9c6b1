"""Figures as files: which kinds there are, and how they are drawn and written."""

import contextlib
import io
import logging
import os
import re
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmi_cli.disk import write_atomically
from lmi_cli.errors import ResourceError, UsageError
from lmi_cli.figures.style import Theme, settings, theme_named

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What would make two files of one figure differ is left out.
_METADATA: dict[str, dict[str, str | None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def require_figure(path: Path | None, theme: str = "light") -> None:
    """Check, before anything is computed, that a figure can be drawn; without a path, the theme.

    Raises:
        UsageError: The name has another ending than those known, there is no such theme, or
            matplotlib is not installed.
    """
    theme_named(theme)
    if path is None:
        return
    if path.suffix.lower() not in _METADATA:
        raise UsageError(
            f"{path} is not the name of a figure", hint="use one of " + ", ".join(_METADATA)
        )
    if find_spec("matplotlib") is None:
        raise UsageError(
            "figures need the package matplotlib, which is not installed",
            hint="pip install 'lmi[plot]'",
        )


@contextlib.contextmanager
def drawing(theme: Theme) -> Iterator[None]:
    """Draw in a theme, whatever the user's settings of matplotlib are, and without its messages.

    It logs, for one, that it keeps its list of fonts in a temporary folder where the home folder
    cannot be written, and warns about characters that its font lacks, which appear as boxes.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import matplotlib

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, message="Glyph")
            defaults: Any = {
                name: value
                for name, value in matplotlib.rcParamsDefault.items()
                if name != "backend"  # the class Figure draws without one, and opens no window
            }
            with matplotlib.rc_context(defaults | settings(theme)):
                yield
    finally:
        logger.setLevel(level)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure whole or not at all, in the format of the path's ending.

    Raises:
        UsageError: As :func:`require_figure`.
        ResourceError: The file cannot be written.
    """
    require_figure(path)
    ending = path.suffix.lower()
    file = io.BytesIO()
    figure.savefig(file, format=ending[1:], metadata=_METADATA[ending])
    data = file.getvalue()
    if ending == ".png":
        data = _with_palette(file)
    elif ending == ".svg":
        data = re.sub(rb"\n\s+", b"\n", data)  # a tenth of it is indentation
    try:
        write_atomically(Path(os.path.realpath(path)), data)
    except OSError as error:
        reason = error.strerror or error
        raise ResourceError(f"{path} cannot be written: {reason}") from error


def _with_palette(file: io.BytesIO) -> bytes:
    """A picture with 256 colours, which suffice for a figure and take a third of the space."""
    from PIL import Image

    smaller = io.BytesIO()
    with Image.open(file) as image:
        few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        few.save(smaller, "PNG", optimize=True, dpi=image.info.get("dpi"))
    return smaller.getvalue()
