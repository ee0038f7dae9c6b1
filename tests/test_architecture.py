"""Data flows one way, and only where it should; read from the sources, not from the imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lmi_cli

ROOT = Path(lmi_cli.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# What each package may import of ours, beside itself and ``errors``.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "disk": set(),
    "cgroups": set(),
    "journal": {"disk"},
    "processes": {"cgroups", "journal"},
    "memory": {"cgroups"},
    "__main__": {"cli"},
    "sources": set(),
    "text": {"sources"},
    "native": {"attention", "cgroups"},
    "attention": {"native"},
    "methods": {"attention"},
    "cache": {"attention", "disk", "methods"},
    "engine": {"attention", "cache", "memory", "methods"},
    "checkpoints": {"disk", "memory"},
    "evaluation": {"disk"},
    "figures": {"disk"},
    "models": {
        "attention", "checkpoints", "disk", "engine", "memory", "methods", "native", "text",
    },
    "tasks": {
        "attention", "cache", "checkpoints", "disk", "engine", "evaluation", "journal", "memory",
        "methods", "models", "native", "processes", "sources", "text",
    },
    "cli": {
        "cache", "checkpoints", "disk", "engine", "evaluation", "figures", "journal", "memory",
        "methods", "models", "processes", "sources", "tasks", "text",
    },
}  # fmt: skip
JOINING = "processes/launched.py"  # imported only where there are several processes
HEAVY = {"torch", "transformers", "numpy", "accelerate", "tokenizers", "pypdf", "matplotlib"}


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            base = node.module or ""
            yield from (
                f"{base}.{alias.name}" if base == "lmi_cli" else base for alias in node.names
            )


def at_module_level(tree: ast.Module) -> Iterator[str]:
    """Imports that run when the module is imported, types apart."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = package_of(path)
    assert ast.get_docstring(tree), "every module says what it is for"
    names = set(imports(tree))
    ours = {name.split(".")[1] for name in names if name.startswith("lmi_cli.")}
    if package != "__init__":
        extra = ours - ALLOWED[package] - {package, "errors", "__version__"}
        assert not extra, f"{package} must not import {extra}"
    foreign = {name.split(".")[0] for name in names}
    name = path.relative_to(ROOT).as_posix()
    if package != "models" and path.name not in ("conversion.py", "hub.py"):
        libraries = {"transformers", "accelerate", "gguf", "huggingface_hub"}
        assert not foreign & libraries - ({"accelerate"} if name == JOINING else set())
    if package != "cli":
        assert not foreign & {"typer", "rich"}
    if package in ("sources", "text", "disk", "memory"):
        assert "torch" not in foreign
    light = (
        "checkpoints", "cli", "disk", "errors", "evaluation", "figures", "journal", "memory",
        "processes", "sources", "__init__",
    )  # fmt: skip
    if package in light and name != JOINING:
        assert not {name.split(".")[0] for name in at_module_level(tree)} & HEAVY - (
            {"pypdf"} if path.name == "pdf_worker.py" else set()
        )
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Assert), "python -O removes assertions"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "input", "eval", "exec")


UNPICKLING = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
LOADING = {"from_pretrained", "from_config"}
WALL_CLOCK = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "strftime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}


def called(node: ast.Call) -> tuple[str, str]:
    """``("path", "exists")`` for ``os.path.exists()``, and ``("", "len")`` for ``len()``."""
    if isinstance(node.func, ast.Attribute):
        owner = node.func.value
        return getattr(owner, "attr", getattr(owner, "id", "")), node.func.attr
    return "", getattr(node.func, "id", "")


def calls(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled_and_no_model_is_saved(path: Path) -> None:
    names = imports(ast.parse(path.read_text(encoding="utf-8")))
    assert not {name.split(".")[0] for name in names} & UNPICKLING
    for call in calls(path):
        owner, name = called(call)
        assert name not in ("save_pretrained", "push_to_hub")
        assert (owner, name) not in {("torch", "load"), ("np", "load"), ("numpy", "load")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_of_a_model_is_ever_trusted(path: Path) -> None:
    """``trust_remote_code`` is False in every call, and in every call that could run such code.

    Left out, it would make transformers ask on standard input, where the document may be.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            assert isinstance(node.value, ast.Constant) and node.value.value is False
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "trust_remote_code":
                    assert isinstance(value, ast.Constant) and value.value is False
    for call in calls(path):
        owner, name = called(call)
        if owner.startswith("Auto") and name in LOADING:
            given = {keyword.arg for keyword in call.keywords}  # None stands for ``**mapping``
            assert given & {"trust_remote_code", None}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_chat_templates_ask_for_the_time_of_day(path: Path) -> None:
    """Durations are measured by clocks that nobody sets."""
    if path.relative_to(ROOT).as_posix() == "models/chat.py":
        return
    for call in calls(path):
        owner, name = called(call)
        assert name not in WALL_CLOCK.get(owner, ())
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            assert not {alias.name for alias in node.names} & WALL_CLOCK["time"]


def test_every_package_is_in_the_table() -> None:
    assert {package_of(path) for path in FILES} - {"__init__"} == set(ALLOWED)


def test_a_class_has_a_name_of_its_own() -> None:
    """One meaning for a word: no two modules have a public class of one name."""
    seen: dict[str, Path] = {}
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert node.name not in seen, f"{path} and {seen[node.name]}: {node.name}"
                seen[node.name] = path


def test_only_methods_know_which_method_it_is() -> None:
    """Nothing outside asks for the type of a method, or for a parameter that only one has."""
    for path in FILES:
        if package_of(path) == "methods":
            continue
        text = path.read_text(encoding="utf-8")
        assert "parameters().get(" not in text, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                assert not {"LMInfinite", "Full", "Method"} & {
                    name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)
                }, path
