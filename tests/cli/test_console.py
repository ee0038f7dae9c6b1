"""What may reach a terminal, and files that exist complete or not at all."""

import io
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lmi_cli.cli import console, progress
from lmi_cli.errors import ResourceError, UsageError


@given(st.text())
def test_sanitized_text_has_nothing_a_terminal_acts_on(text: str) -> None:
    clean = console.sanitize(text)
    assert all(char in "\n\t" or not 0 <= ord(char) < 32 for char in clean)
    assert not any(0x7F <= ord(char) < 0xA0 or char in "\u202e\u2066\u200f" for char in clean)
    assert console.sanitize(clean) == clean
    line = console.one_line(text)
    assert len(line.splitlines()) <= 1 and "\t" not in line


@given(st.text(alphabet=st.characters(categories=("L", "N", "P", "S", "Zs"))))
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert console.sanitize(text) == text


def test_the_bar_shows_markup_and_control_characters_as_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "_is_terminal", lambda: True)
    monkeypatch.setattr(
        progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=120)
    )
    with progress.ProgressDisplay(quiet=False, verbose=False) as display:
        display.show("reading [/x.jpg] [red][id]\x1b[2J", 1, 10)
        assert display._bar is not None
        display._bar.refresh()
    assert "reading [/x.jpg] [red][id]\\x1b[2J" in screen.getvalue()
    assert "\x1b[2J" not in screen.getvalue()


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250)
    console.write_file(path, b"one")
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    (tmp_path / "other").unlink()
    path.chmod(0o600)
    console.write_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_keeps_pointing_where_it_does(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "folder" / "target")
    console.write_file(link, b"x")
    assert link.is_symlink() and (tmp_path / "folder" / "target").read_bytes() == b"x"


def test_a_device_is_written_to_and_stays_one() -> None:
    null = Path(os.devnull)
    console.require_writable(null)
    console.write_file(null, b"x")
    assert not null.is_file()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "result"
    path.write_bytes(b"old")

    def fail(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((ResourceError, KeyboardInterrupt)):
        console.write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_output_that_cannot_be_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        console.Output(tmp_path)
    with pytest.raises(UsageError, match="there is no folder"):
        console.Output(tmp_path / "absent" / "file")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ResourceError, match="is read-only"):
        console.Output(tmp_path / "file")
