"""Limits of control groups, versions 1 and 2, on made-up trees of files."""

from pathlib import Path

import pytest

from lmi_cli import cgroups, memory
from lmi_cli.native import threads


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mount of control groups without a group in it."""
    monkeypatch.setattr(cgroups, "_MOUNT", tmp_path)
    monkeypatch.setattr(cgroups, "_GROUPS", tmp_path / "self")
    return tmp_path


def write(tree: Path, own: str, files: dict[str, str]) -> None:
    (tree / "self").write_text(own)
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)


CPU = {
    "no groups": ("", {}, None),
    "no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    "a container": ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
    "a group around it": (
        "0::/a.slice/b.scope\n",
        {"a.slice/b.scope/cpu.max": "max 100000\n", "a.slice/cpu.max": "100000 100000\n"},
        1.0,
    ),
    "the tightest": ("0::/a\n", {"a/cpu.max": "50000 100000\n", "cpu.max": "9 3\n"}, 0.5),
    "version 1": (
        "5:memory:/x\n4:cpu,cpuacct:/y\n",
        {"cpu/y/cpu.cfs_quota_us": "200000\n", "cpu/y/cpu.cfs_period_us": "100000\n"},
        2.0,
    ),
    "version 1 without a limit": (
        "4:cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        None,
    ),
    "a mount that shows another path": (
        "4:cpu:/docker/1234\n",
        {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        1.0,
    ),
    "nonsense": ("0::/\n", {"cpu.max": "lots\n"}, None),
}


@pytest.mark.parametrize(("own", "files", "expected"), CPU.values(), ids=CPU)
def test_processors(tree: Path, own: str, files: dict[str, str], expected: float | None) -> None:
    write(tree, own, files)
    assert cgroups.processors() == expected


MEMORY = {
    "no groups": ("", {}, None),
    "no limit": ("0::/\n", {"memory.max": "max\n", "memory.current": "3000\n"}, None),
    "a container": ("0::/\n", {"memory.max": "5000\n", "memory.current": "3000\n"}, 2000),
    "more than the limit": ("0::/\n", {"memory.max": "5\n", "memory.current": "30\n"}, 0),
    "version 1": (
        "4:memory:/a\n",
        {"memory/a/memory.limit_in_bytes": "5000\n", "memory/a/memory.usage_in_bytes": "1000\n"},
        4000,
    ),
}


@pytest.mark.parametrize(("own", "files", "expected"), MEMORY.values(), ids=MEMORY)
def test_memory(tree: Path, own: str, files: dict[str, str], expected: int | None) -> None:
    write(tree, own, files)
    assert cgroups.free_bytes() == expected
    available = memory.available_bytes()
    assert available > 10**6 if expected is None else available == expected


def test_one_thread_where_the_quota_is_one_processor(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_DEFAULT", 8)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert threads.useful_threads() == 6
    for quota, expected in (("100000", 1), ("250000", 3), ("5000", 1), ("900000", 6)):
        write(tree, "0::/\n", {"cpu.max": f"{quota} 100000\n"})
        assert threads.useful_threads() == expected
