"""Folders: the files that git lists, with git and without it."""

import os
import random
import shutil
import subprocess

import pytest

from lmi_cli.sources import git
from lmi_cli.sources.walk import _list_tree

from .folders import fill, walk_pairs

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not there")


def run_git(folder, *arguments):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], env=environment, capture_output=True, check=True
    )
    return done.stdout


def listed_by_git(folder):
    out = run_git(folder, "ls-files", "-co", "--exclude-standard", "-z")
    return {os.fsdecode(path) for path in out.split(b"\0") if path}


def listed_by_patterns(folder):
    return {path for path, reason in _list_tree(folder, True) if reason is None}


def listed_by_walk(folder):
    return {path for path, reason in walk_pairs(folder) if reason != "ignored by .gitignore"}


TREES = {
    "nested": {
        ".gitignore": "*.log\nbuild/\n",
        "a.log": "x",
        "sub/.gitignore": "!keep.log\n*.tmp\n",
        "sub/keep.log": "x",
        "sub/b.tmp": "x",
        "sib/keep.log": "x",
        "sib/b.tmp": "x",
        "sub/build/out": "x",
        "build/out": "x",
        "src/build": "x",
    },
    "parents stay closed": {
        ".gitignore": "out/\n!out/keep\n/top/*\n!/top/keep/\n",
        "out/keep": "x",
        "top/keep/a": "x",
        "top/drop/a": "x",
        "in/top/drop/a": "x",
    },
    "signs": {
        ".gitignore": "\\#a\n#b\n\\!c\nd\\ \ne   \n/f/**/g\n**/h\ni/**\nj[0-9]\nk?\n*.l*\n\\*m\n",
        "#a": "x",
        "#b": "x",
        "!c": "x",
        "d ": "x",
        "d": "x",
        "e": "x",
        "f/g": "x",
        "f/1/2/g": "x",
        "1/h": "x",
        "i/1/2": "x",
        "n/i/1": "x",
        "j1": "x",
        "ja": "x",
        "k1": "x",
        "k12": "x",
        "a.lx": "x",
        "*m": "x",
        "am": "x",
    },
    "windows line ends": {".gitignore": "*.a\r\nb/\r\n", "1.a": "x", "b/1": "x", "c": "x"},
    "byte order mark": {".gitignore": "\ufeff*.a\n", "1.a": "x", "c": "x"},
    "no slash means any depth": {".gitignore": "a/b\nc\n", "a/b": "x", "x/a/b": "x", "x/c/d": "x"},
    "ignored ignore file": {
        ".gitignore": "sub/.gitignore\n",
        "sub/.gitignore": "a\n",
        "sub/a": "x",
    },
}


@needs_git
@pytest.mark.parametrize("tree", TREES)
def test_same_files_as_git(tmp_path, tree):
    fill(tmp_path, TREES[tree])
    run_git(tmp_path, "init", "-q")
    expected = listed_by_git(tmp_path)
    assert listed_by_patterns(tmp_path) - {".git/"} == expected
    assert listed_by_walk(tmp_path) == expected


@needs_git
@pytest.mark.parametrize("seed", range(25))
def test_same_files_as_git_in_random_trees(tmp_path, seed):
    rng = random.Random(seed)
    names = ["a", "b", "c.log", "d.txt", "build", "x y", "é"]
    folders = [""] + ["/".join(rng.choices(names, k=rng.randint(1, 3))) for _ in range(8)]
    marks = ["", "/", "!", "**/", "!/", "/**/"]
    patterns = [*names, "*.log", "*", "a*", "?", "[ab]", "a/b", "build/*", "a/**", "**/b/c.log"]
    for folder in folders:
        place = tmp_path / folder
        try:
            place.mkdir(parents=True, exist_ok=True)
            for name in rng.sample(names, 4):
                if not (place / name).exists():
                    (place / name).write_text("x")
            if rng.random() < 0.6:
                lines = [
                    rng.choice(marks) + rng.choice(patterns) + rng.choice(["", "", "/"])
                    for _ in range(rng.randint(1, 4))
                ]
                (place / ".gitignore").write_text("\n".join(lines) + "\n")
        except OSError:
            continue
    run_git(tmp_path, "init", "-q")
    (tmp_path / ".git/info/exclude").write_text("d.txt\n")
    expected = listed_by_git(tmp_path)
    assert listed_by_patterns(tmp_path) == expected
    assert listed_by_walk(tmp_path) == expected
    inner = (tmp_path / folder for folder in folders[1:] if (tmp_path / folder).is_dir())
    for place in inner:
        if expected := listed_by_git(place):  # else it may itself be ignored
            assert listed_by_walk(place) == expected
            assert listed_by_patterns(place) == expected


@needs_git
def test_same_patterns_as_git(tmp_path):
    names = [
        "a",
        "b",
        "ab",
        "a-b",
        "aab",
        "]",
        "[",
        "!",
        "^",
        "-",
        "\\",
        "*",
        "a b",
        "b ",
        "é",
        "_",
    ]
    fill(tmp_path, dict.fromkeys(names, "x"))
    fill(tmp_path, {f"{folder}/{name}": "x" for folder in ("d", "d/x", "e/a/d") for name in names})
    run_git(tmp_path, "init", "-q")
    rng = random.Random(7)
    pieces = ["a", "b", "d", "*", "**", "?", "/", "[", "]", "!", "^", "-", "\\", " ", "é", "[a-b]"]
    pieces += ["[[:alpha:]]", "[!a]", "[^[:punct:]]", "/**/", "**/", "[b-ad]", "[!b-a]", "[a--b]"]
    pieces += ["[a-]", "[-a]", "[a-b-d]", "[b-a]", "[[:digit:]-b]", "[\\a-\\d]"]
    for _ in range(150):
        lines = ["".join(rng.choices(pieces, k=rng.randint(1, 5))) for _ in range(2)]
        (tmp_path / ".gitignore").write_text("\n".join(lines))
        assert listed_by_patterns(tmp_path) == listed_by_git(tmp_path), lines


def test_a_pattern_cannot_take_for_ever(tmp_path):
    fill(tmp_path, {".gitignore": "*a" * 60 + "b\n", "a" * 200: "x"})
    assert ("a" * 200, None) in list(walk_pairs(tmp_path))


@needs_git
def test_tracked_files_are_read_though_ignored(tmp_path):
    fill(tmp_path, {"a.log": "x", "b.log": "x", ".gitignore": "*.log\n"})
    run_git(tmp_path, "init", "-q")
    run_git(tmp_path, "add", "-f", "a.log")
    assert dict(walk_pairs(tmp_path)) == {
        ".gitignore": "hidden",
        "a.log": None,
        "b.log": "ignored by .gitignore",
    }


@needs_git
@pytest.mark.parametrize("with_git", [True, False])
def test_an_ignored_folder_that_is_named_is_read(tmp_path, monkeypatch, with_git):
    fill(tmp_path, {".gitignore": ".venv/\n*.py\n", ".venv/lib/a.py": "x", ".venv/lib/b.c": "x"})
    fill(tmp_path, {".venv/lib/.gitignore": "*.c\n", "src/a.py": "x", "src/b.c": "x"})
    run_git(tmp_path, "init", "-q")
    if not with_git:
        monkeypatch.setattr(git.shutil, "which", lambda _: None)
    ignored = "ignored by .gitignore"
    inside = dict(walk_pairs(tmp_path / ".venv/lib"))
    assert inside == {".gitignore": "hidden", "a.py": None, "b.c": ignored}
    assert dict(walk_pairs(tmp_path / "src")) == {"a.py": ignored, "b.c": None}


@needs_git
def test_tracked_but_deleted_files_are_not_there(tmp_path):
    fill(tmp_path, {"a": "x", "b": "x"})
    run_git(tmp_path, "init", "-q")
    run_git(tmp_path, "add", ".")
    (tmp_path / "a").unlink()
    assert dict(walk_pairs(tmp_path)) == {"b": None}


@needs_git
def test_repository_inside_is_listed_as_such(tmp_path):
    fill(tmp_path, {"a": "x", "inner/b": "x"})
    run_git(tmp_path, "init", "-q")
    run_git(tmp_path / "inner", "init", "-q")
    assert dict(walk_pairs(tmp_path)) == {"a": None, "inner": "a repository of its own"}


@needs_git
def test_configuration_of_a_repository_runs_nothing(tmp_path):
    fill(tmp_path, {"a": "x"})
    run_git(tmp_path, "init", "-q")
    hook = tmp_path / "hook.sh"
    hook.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    hook.chmod(0o755)
    for key in ("core.fsmonitor", "core.pager", "core.editor", "core.sshCommand"):
        run_git(tmp_path, "config", key, str(hook))
    assert ("a", None) in list(walk_pairs(tmp_path))
    assert not (tmp_path / "ran").exists()


@needs_git
def test_no_gitignore(tmp_path):
    fill(tmp_path, {"a.log": "x", ".gitignore": "*.log\n", "b/c.log": "x"})
    run_git(tmp_path, "init", "-q")
    assert dict(walk_pairs(tmp_path, gitignore=False)) == {
        ".git": "hidden",
        ".gitignore": "hidden",
        "a.log": None,
        "b/c.log": None,
    }


def test_without_git(tmp_path, monkeypatch):
    monkeypatch.setattr(git.shutil, "which", lambda _: None)
    fill(tmp_path, {"a.log": "x", ".gitignore": "*.log\n", "b/c": "x", "build/x/y": "x"})
    (tmp_path / "b/.gitignore").write_text("/c\n")
    fill(tmp_path, {"d/c": "x"})
    assert dict(walk_pairs(tmp_path)) == {
        ".gitignore": "hidden",
        "a.log": "ignored by .gitignore",
        "b/.gitignore": "hidden",
        "b/c": "ignored by .gitignore",
        "build/x/y": None,
        "d/c": None,
    }
