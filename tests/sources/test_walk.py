"""Folders: what is read in which order, and what is left out with its reason."""

import os
import shutil
import socket
from pathlib import Path

import pytest

from lmi_cli.errors import NoInputError
from lmi_cli.sources import ReadOptions, is_by_rule, open_corpus

from .documents import make_pdf, read_all
from .folders import fill, walk_pairs


def test_order_is_that_of_the_path_bytes(tmp_path):
    names = ["a/b", "a-b", "a.b", "B", "é", "a/b.c/d", "a/b-c", "z"]
    fill(tmp_path, dict.fromkeys([name for name in names if name != "a/b"], "x"))
    found = [path for path, _ in walk_pairs(tmp_path)]
    assert found == sorted(found, key=os.fsencode)


def test_what_is_left_out(tmp_path):
    fill(
        tmp_path,
        {
            "readme.md": "hello\n",
            ".env": "SECRET=1",
            ".hidden/deep/file": "x",
            ".svn/entries": "x",
            "id_rsa": "-----BEGIN OPENSSH PRIVATE KEY-----\n",
            "uv.lock": "x",
            "web/jquery.min.js": "x",
            "web/app.css.map": "x",
            "empty": "",
            "big": "x" * 2000,
        },
    )
    (tmp_path / "data.bin").write_bytes(b"\0" * 100)
    (tmp_path / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    result = read_all(tmp_path, options=ReadOptions(max_file_size=1000))
    assert result.bodies == ["hello\n"]
    skipped = {origin.removeprefix(f"{tmp_path}/"): why for origin, why in result.skipped.items()}
    assert skipped == {
        ".env": "may hold secrets (environment file)",
        ".hidden": "hidden",
        ".svn": "hidden",
        "id_rsa": "may hold secrets (private key)",
        "uv.lock": "lock file",
        "web/jquery.min.js": "minified",
        "web/app.css.map": "minified",
        "empty": "empty",
        "big": "too large (2,000 bytes)",
        "data.bin": "unsupported: binary data (NUL at byte 0)",
        "logo.png": "unsupported: PNG image",
    }
    failures = {skip.origin for skip in result.corpus.skipped if not is_by_rule(skip)}
    assert failures == {str(tmp_path / name) for name in ("big", "data.bin", "logo.png")}


def test_a_drawing_is_read_only_if_it_is_named(tmp_path):
    drawing = tmp_path / "a.svg"
    drawing.write_text('<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>\n')
    (tmp_path / "b.txt").write_text("word")
    result = read_all(tmp_path)
    assert result.skipped == {str(drawing): "SVG drawing"}
    assert "<svg" in read_all(drawing).text


def test_minified_by_its_lines(tmp_path):
    fill(tmp_path, {"a.js": "var a=1;" * 1000, "b.js": "var a = 1;\n" * 1000})
    assert read_all(tmp_path).skipped == {str(tmp_path / "a.js"): "minified"}


def test_a_file_that_is_named_is_read_whatever_the_rules(tmp_path):
    fill(tmp_path, {".env": "A=1\n", "uv.lock": "x\n", "big": "x" * 2000, ".gitignore": "*\n"})
    paths = [tmp_path / name for name in (".env", "uv.lock", "big")]
    result = read_all(*paths, options=ReadOptions(max_file_size=10, exclude=("*",)))
    assert len(result.corpus.sources) == 3


def test_include_and_exclude(tmp_path):
    fill(
        tmp_path,
        dict.fromkeys(["a.py", "b.md", "t/c.py", "t/d.md", "t/x/e.py", "poetry.lock"], "x"),
    )
    got = dict(walk_pairs(tmp_path, include=("*.py",), exclude=("x/", "b.*")))
    assert [path for path, why in got.items() if why is None] == ["a.py", "t/c.py"]
    assert got["b.md"] == "excluded"
    assert got["t/x"] == "excluded"
    assert got["t/d.md"] == "not included"
    got = dict(walk_pairs(tmp_path, include=("*.lock", "/t/*.md")))
    assert [path for path, why in got.items() if why is None] == ["poetry.lock", "t/d.md"]


def test_folders_left_out_are_not_entered(tmp_path, monkeypatch):
    fill(tmp_path, {"a": "x", ".hidden/b": "x", "drop/c": "x", "in/.cache/d/e": "x"})
    seen = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (seen.append(Path(path)), real(path))[1])
    assert dict(walk_pairs(tmp_path, exclude=("drop",))) == {
        ".hidden": "hidden",
        "a": None,
        "drop": "excluded",
        "in/.cache": "hidden",
    }
    assert seen == [tmp_path, tmp_path / "in"]


def test_links_are_not_followed(tmp_path):
    folder = tmp_path / "folder"
    fill(folder, {"a.txt": "x\n", "sub/b.txt": "y\n"})
    fill(tmp_path, {"outside/c.txt": "z\n"})
    (folder / "sub/up").symlink_to("..")
    (folder / "self").symlink_to(".")
    (folder / "away").symlink_to(tmp_path / "outside")
    (folder / "dangling").symlink_to("nothing")
    (folder / "file").symlink_to("a.txt")
    result = read_all(folder)
    assert result.bodies == ["x\n", "y\n"]
    assert sorted(result.skipped.values()) == ["symbolic link"] * 5


def test_special_files_are_refused_and_never_opened(tmp_path):
    fill(tmp_path, {"a.txt": "x\n"})
    os.mkfifo(tmp_path / "fifo")
    place = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        result = read_all(tmp_path, "/dev/zero", tmp_path / "fifo")
    assert result.bodies == ["x\n"]
    assert result.skipped == {
        str(tmp_path / "fifo"): "not a regular file: a pipe; use - to read from a pipe",
        str(place): "not a regular file: a socket",
        "/dev/zero": "not a regular file: a device",
    }


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "/proc/kmsg"])
def test_a_device_alone_is_no_input(name):
    if not Path(name).exists():
        pytest.skip(f"{name} is not there")
    with pytest.raises(NoInputError):
        read_all(name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path):
    fill(tmp_path, {"a": "x", "b": "y"})
    (tmp_path / "a").chmod(0)
    assert read_all(tmp_path).skipped == {str(tmp_path / "a"): "cannot be read: permission denied"}
    with pytest.raises(NoInputError, match="permission denied"):
        read_all(tmp_path / "a")


def test_unreadable_file_whoever_runs_the_test(tmp_path, monkeypatch):
    from lmi_cli.sources import input as input_module

    real = os.open

    def refuse(path, *rest, **more):
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return real(path, *rest, **more)

    monkeypatch.setattr(input_module.os, "open", refuse)
    fill(tmp_path, {"a": "x", "b": "y"})
    assert read_all(tmp_path).skipped == {str(tmp_path / "a"): "cannot be read: permission denied"}
    with pytest.raises(NoInputError, match="permission denied"):
        read_all(tmp_path / "a")


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    real = os.scandir

    def refuse(path):
        if str(path).rstrip("/").endswith("/closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    fill(tmp_path, {"a": "x\n", "closed/b": "x\n", "z": "y\n"})
    result = read_all(tmp_path)
    assert result.bodies == ["x\n", "y\n"]
    assert result.skipped == {str(tmp_path / "closed"): "cannot be read: permission denied"}


def test_strange_names(tmp_path):
    names = [b"line\nbreak", b"esc\x1b[2J", b"[red]", b"not-utf8-\xff", "rtl\u202e".encode()]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_text("x\n")
    result = read_all(tmp_path)
    assert len(result.corpus.sources) == 5
    headers = [block.text for block in result.blocks if block.header]
    for header in headers:
        header.encode()
        assert header.strip("\n").isprintable()
    for source in result.corpus.sources:
        source.origin.encode()


def test_very_deep_folders(tmp_path):
    place = tmp_path
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(600):
            os.mkdir("d", dir_fd=here)
            deeper = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = deeper
            place = place / "d"
        result = open_corpus([str(tmp_path)])
        with pytest.raises(NoInputError):
            list(result.blocks)
    finally:
        os.close(here)
        shutil.rmtree(tmp_path / "d")


def test_folder_without_text_says_why(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    fill(tmp_path, {".secret": "x"})
    (tmp_path / "a.pdf").write_bytes(make_pdf([None]))
    with pytest.raises(NoInputError) as caught:
        read_all(tmp_path)
    assert caught.value.message == (
        f"no text in {tmp_path}; skipped: 3 unsupported: PNG image, 1 hidden, "
        "1 no text layer on 1/1 pages"
    )


def test_empty_folder(tmp_path):
    with pytest.raises(NoInputError, match="no text in"):
        read_all(tmp_path)


def test_a_million_skips_are_counted_not_listed(tmp_path, monkeypatch):
    from lmi_cli.sources import corpus

    monkeypatch.setattr(corpus, "LISTED_SKIPS", 3)
    fill(tmp_path, {f".h{number}": "x" for number in range(10)} | {"a": "text\n"})
    result = read_all(tmp_path)
    assert len(result.corpus.skipped) == 4
    assert result.skipped["7 more files"] == "hidden"
