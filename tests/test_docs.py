"""What is written about the program is what the program is."""

import ast
import re
from pathlib import Path

import pytest
import typer
from test_architecture import ALLOWED, FILES, ROOT

from lmi_cli.cli import reference
from lmi_cli.cli.app import build

DOCS = ROOT.parent / "docs"
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")
# Options of other programs, which are called or recommended.
FOREIGN = {
    "checkpoints/wheel.py": {
        "--no-deps", "--only-binary", "--no-input", "--no-cache-dir", "--progress-bar", "--dest",
        "--disable-pip-version-check", "--ignore-requires-python",
    },
    "sources/walk.py": {"--exclude-standard"},
    "sources/git.py": {"--exclude-standard", "--directory", "--is-inside-work-tree"},
    "cli/sharing.py": {"--cpu"},
    "processes/place.py": {"--cpu"},
    "evaluation.md": {"--cpu", "--multi", "--num", "--nproc"},  # up to an underscore
}  # fmt: skip


def options() -> set[str]:
    group = typer.main.get_command(build())
    commands = [group, *group.commands.values(), *group.commands["models"].commands.values()]
    return {name for command in commands for item in command.params for name in item.opts} | {
        "--help"
    }


def texts(path: Path) -> str:
    """All string constants of a module, docstrings included."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return "\n".join(
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_options_that_messages_name_exist(path: Path) -> None:
    foreign = FOREIGN.get(path.relative_to(ROOT).as_posix(), set())
    assert set(OPTION.findall(texts(path))) - foreign <= options()


@pytest.mark.parametrize("path", [*DOCS.glob("*.md"), ROOT.parent / "README.md"], ids=str)
def test_options_that_pages_name_exist(path: Path) -> None:
    scripts = {name for script in DOCS.glob("*.py") for name in OPTION.findall(script.read_text())}
    known = options() | scripts | FOREIGN.get(path.name, set())
    assert set(OPTION.findall(path.read_text(encoding="utf-8"))) <= known


TEST = re.compile(r"`([\w/]+\.py)((?:::\w+)+)`")


def test_tests_that_a_page_names_exist() -> None:
    names = TEST.findall((DOCS / "reliability.md").read_text(encoding="utf-8"))
    assert names
    for path, inner in names:
        node: ast.AST = ast.parse((Path(__file__).parent / path).read_text(encoding="utf-8"))
        for name in inner.split("::")[1:]:
            found = [
                item for item in ast.iter_child_nodes(node) if getattr(item, "name", "") == name
            ]
            assert len(found) == 1, f"{path}::{name}"
            node = found[0]


def test_what_is_not_promised_is_said() -> None:
    page = (DOCS / "security.md").read_text(encoding="utf-8")
    assert "instructions hidden in a document" in page


def test_the_reference_of_the_commands_is_that_of_the_program() -> None:
    written = reference.TARGET.read_text(encoding="utf-8")
    assert written == reference.reference(), "run: python -m lmi_cli.cli.reference"


def test_rows_of_a_table_have_as_many_cells_as_its_head() -> None:
    for page in (*DOCS.glob("*.md"), ROOT.parent / "README.md"):
        cells = 0
        for line in page.read_text(encoding="utf-8").splitlines():
            count = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
            assert not cells or count in (0, cells), f"{page.name}: {line}"
            cells = count


def test_the_table_of_imports_is_the_one_that_is_enforced() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", page, flags=re.MULTILINE)
    table = {name: set(re.findall(r"`(\w+)`", allowed)) for name, allowed in rows}
    assert table == {name: ALLOWED[name] for name in ALLOWED if name not in ("errors", "__main__")}


def test_files_are_neither_long_nor_tiny() -> None:
    package = [*FILES, *ROOT.rglob("*.c"), *ROOT.rglob("*.h")]
    tests = Path(__file__).parent.rglob("*.py")
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in (*package, *tests)}
    assert {path: count for path, count in lines.items() if count > 400} == {}
    small = {path: count for path, count in lines.items() if count < 15 and path in package}
    assert {path for path in small if path.stem not in ("__init__", "__main__")} == set()
