"""The figures of the pages are there, small, and made by a command that stands beside them."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from lmi_cli.figures import THEMES

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [*DOCS.glob("*.md"), DOCS.parent / "README.md"]
LINK = re.compile(r'(?:src|srcset)="((?:docs/)?figures/(\w+)-\w+\.\w+)"')


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("figures_of_pages", DOCS / "figures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_of_pages_are_complete_and_small(script: ModuleType) -> None:
    named = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for link, name in LINK.findall(text):
            assert (page.parent / link).is_file(), f"{page.name}: {link}"
            assert f"python docs/figures.py {name}" in text, f"{page.name}: how {name} is made"
            named.add(name)
    assert named and named <= set(script.FIGURES)
    drawn = {path for path in script.FOLDER.iterdir() if path.suffix in script.ENDINGS}
    variants = {f"{name}-{t}{e}" for name in named for t in THEMES for e in script.ENDINGS}
    assert {path.name for path in drawn} == variants
    assert max(path.stat().st_size for path in drawn) < 150_000


def test_figures_are_drawn_from_the_tables_of_the_pages(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["figures.py", "--folder", str(tmp_path)])
    monkeypatch.setattr(script, "THEMES", ["dark"])
    monkeypatch.setattr(script, "ENDINGS", [".svg"])
    script.main()
    names = {f"{name}-dark.svg" for name in script.FROM_TABLES}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert script.number("2,160 tok/s (**2.3x**)") == 2160 and script.number("11.5 MiB") == 11.5
    with pytest.raises(SystemExit, match="'-' has no number"):
        script.number("-")
