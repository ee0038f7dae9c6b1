"""Files that are replaced whole or not at all, and records that are usable or absent."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from lmi_cli import disk
from lmi_cli.disk import Record, cache_folder, replacing, write_atomically

needs_modes = pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask_027() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


class TestReplacing:
    def test_the_block_writes_beside_the_place(self, tmp_path: Path) -> None:
        path = tmp_path / ("n" * 250)
        path.write_bytes(b"old")
        with replacing(path) as temporary:
            temporary.write_bytes(b"new")
            assert path.read_bytes() == b"old"
            assert temporary.stat().st_dev == tmp_path.stat().st_dev
        assert path.read_bytes() == b"new"
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("error", [ValueError(), OSError(28, "full"), KeyboardInterrupt()])
    def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(
        self, error: BaseException, tmp_path: Path
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"old")
        with pytest.raises(type(error)), replacing(path) as temporary:
            temporary.write_bytes(b"half")
            temporary.with_name("left over by a library").write_bytes(b"x")
            raise error
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_block_that_writes_nothing_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"old")
        with pytest.raises(FileNotFoundError), replacing(path):
            pass
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_failing_disk_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"old")

        def fail(descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="Input/output"):
            write_atomically(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            write_atomically(tmp_path / "absent" / "file", b"")
        assert list(tmp_path.iterdir()) == []

    def test_a_link_is_replaced(self, tmp_path: Path) -> None:
        target, link = tmp_path / "target", tmp_path / "link"
        target.write_bytes(b"old")
        link.symlink_to(target)
        write_atomically(link, b"new")
        assert not link.is_symlink()
        assert (link.read_bytes(), target.read_bytes()) == (b"new", b"old")

    @needs_modes
    def test_a_new_file_has_the_permissions_of_any(self, tmp_path: Path, umask_027: None) -> None:
        write_atomically(tmp_path / "file", b"")
        assert mode_of(tmp_path / "file") == 0o640

    @needs_modes
    @pytest.mark.parametrize("mode", [0o600, 0o664, 0o444])
    def test_a_replaced_file_keeps_its_permissions(self, mode: int, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.touch()
        path.chmod(mode)
        write_atomically(path, b"new")
        assert (mode_of(path), path.read_bytes()) == (mode, b"new")

    @needs_modes
    def test_the_permissions_that_a_library_set_do_not_count(
        self, tmp_path: Path, umask_027: None
    ) -> None:
        with replacing(tmp_path / "file") as temporary:
            temporary.touch()
            temporary.chmod(0o400)
        assert mode_of(tmp_path / "file") == 0o640

    @needs_modes
    def test_a_private_file_is_never_open_to_others(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.touch()
        path.chmod(0o644)
        with replacing(path, private=True) as temporary:
            temporary.write_bytes(b"new")
            assert mode_of(temporary.parent) == 0o700
        assert mode_of(path) == 0o600


class TestCacheFolder:
    def test_variables(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LMI_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path / "cache"))
        assert cache_folder() == tmp_path / "cache"
        monkeypatch.delenv("LMI_CACHE_DIR")
        assert cache_folder() == tmp_path / "home"

    def test_platform(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("LMI_CACHE_DIR", "LMI_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        folder = cache_folder()
        assert folder is not None
        assert folder.name == "lmi"

    def test_a_home_folder_that_nobody_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LMI_CACHE_DIR", "~nobody-of-this-name/cache")
        assert cache_folder() is None


class TestRecord:
    RECORD = Record("kind", "a model, in bfloat16\udcff")
    VALUE: ClassVar = {"key": 1, "nested": [{"x": 0.5}], "text": "\udcff"}

    @pytest.fixture(autouse=True)
    def _cache(self, cache: Path) -> None:
        """Records are in a cache of their own."""

    def test_what_was_written_last_is_read(self, cache: Path) -> None:
        assert self.RECORD.read() == {}
        assert not cache.exists()
        for value in ({}, self.VALUE):
            assert self.RECORD.write(value)
            assert self.RECORD.read() == value
        assert list(cache.rglob("*.json")) == [self.RECORD.path]

    def test_every_key_and_every_kind_is_another_record(self) -> None:
        assert self.RECORD.write(self.VALUE)
        assert Record("kind", "another").read() == {}
        assert Record("other", self.RECORD.key).read() == {}

    def test_the_record_of_another_key_is_not_used(self) -> None:
        other = Record("kind", "another")
        assert other.write(self.VALUE)
        assert other.path is not None and self.RECORD.path is not None
        other.path.rename(self.RECORD.path)
        assert self.RECORD.read() == {}

    @pytest.mark.parametrize(
        "content",
        [
            *(b"", b"{", b"[]", b"null", b'"text"', b"\xff", b"\x80\x04pickle", b"[" * 10**5),
            b'{"key": "K"}',
            b'{"key": "K", "value": null}',
            b'{"key": "K", "value": [1]}',
            b'{"key": "K", "value": {"x": %s}}' % (b"9" * 5000),
            b'{"key": "other", "value": {"x": 1}}',
            b'{"value": {"x": 1}}',
        ],
    )
    def test_damage_counts_as_absent(self, content: bytes) -> None:
        record = Record("kind", "K")
        assert record.write({"x": 1})
        assert record.path is not None
        record.path.write_bytes(content)
        assert record.read() == {}
        assert record.write({"x": 2})
        assert record.read() == {"x": 2}

    def test_a_folder_in_its_place_counts_as_absent(self) -> None:
        assert self.RECORD.path is not None
        self.RECORD.path.mkdir(parents=True)
        assert self.RECORD.read() == {}
        assert not self.RECORD.write(self.VALUE)

    def test_a_record_that_is_too_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.RECORD.write(self.VALUE)
        assert self.RECORD.path is not None
        monkeypatch.setattr(disk, "_RECORD_LIMIT_BYTES", self.RECORD.path.stat().st_size - 1)
        assert self.RECORD.read() == {}
        assert not self.RECORD.write(self.VALUE)

    def test_a_folder_that_cannot_be_made(self, cache: Path) -> None:
        cache.write_text("in the way")
        assert not self.RECORD.write(self.VALUE)
        assert self.RECORD.read() == {}

    def test_a_folder_that_cannot_be_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.RECORD.write({"x": 1})
        original = Path.mkdir

        # Permissions do not stop root, so the refusal of the system is made here.
        def denied(self: Path, *arguments: object, **options: object) -> None:
            if self.name.startswith(".lmi-"):
                raise PermissionError(13, "Permission denied")
            original(self, *arguments, **options)

        monkeypatch.setattr(Path, "mkdir", denied)
        assert not self.RECORD.write({"x": 2})
        assert self.RECORD.read() == {"x": 1}

    def test_no_cache_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(disk, "cache_folder", lambda: None)
        assert self.RECORD.path is None
        assert not self.RECORD.write(self.VALUE)
        assert self.RECORD.read() == {}

    def test_it_is_json_that_says_what_it_is_about(self) -> None:
        assert self.RECORD.write(self.VALUE)
        assert self.RECORD.path is not None
        stored = json.loads(self.RECORD.path.read_text(encoding="ascii"))
        assert len(stored.pop("sha256")) == 64
        assert stored == {"key": self.RECORD.key, "value": self.VALUE}


def test_no_flipped_bit_of_a_record_is_read(cache: Path) -> None:
    record = Record("kind", "key")
    value = {"heads": [[1, 0]], "inv_freq": [0.5, 0.25], "names": {"2": "b", "10": "a"}}
    assert record.write(value) and record.path is not None
    assert record.read() == value
    whole = record.path.read_bytes()
    for at in range(len(whole)):
        for bit in range(8):
            record.path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            assert record.read() in ({}, value)
