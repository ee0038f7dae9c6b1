"""Entries of the cache are whole or treated as absent, whatever happens while they are built."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from model_builders import model_folder

from lmi_cli.checkpoints import entries
from lmi_cli.errors import ModelError, ResourceError

IDENTITY = "ab" * 32


def fill(fresh: Path, scratch: Path) -> None:
    model_folder(fresh)
    (scratch / "download").write_bytes(b"x")


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "entry"
    folder.parent.mkdir()
    entries.build(folder, IDENTITY, fill, source="test")
    return folder


class TestEntries:
    def test_a_new_entry_is_sound_and_alone(self, entry: Path) -> None:
        assert entries.problem(entry, IDENTITY, full=True) is None
        assert [p for p in entry.parent.iterdir() if not p.name.endswith(".lock")] == [entry]

    def test_a_sound_entry_is_not_built_again(self, entry: Path) -> None:
        def unwanted(fresh: Path, scratch: Path) -> None:
            raise AssertionError("built again")

        entries.build(entry, IDENTITY, unwanted, source="test")

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
    @pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete", "longer"])
    def test_damage_is_found_and_repaired(self, name: str, damage: str, entry: Path) -> None:
        path = entry / name
        data = bytearray(path.read_bytes())
        if damage == "flip":
            data[len(data) // 2] ^= 1
        elif damage == "truncate":
            data = data[:-1]
        elif damage == "empty":
            data = bytearray()
        elif damage == "longer":
            data += b"x"
        path.write_bytes(data)
        if damage == "delete":
            path.unlink()
        assert entries.problem(entry, IDENTITY) is not None
        entries.build(entry, IDENTITY, fill, source="test")
        assert entries.problem(entry, IDENTITY, full=True) is None

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"[]",
            b"{}",
            b"\x80\x04K\x01.",
            b"[" * 10**5,
            b'{"schema": 99}',
            b'{"schema": 1}',
            b'{"schema": 1, "identity": 0, "files": []}',
            b'{"schema": 1, "identity": "%s", "files": {"config.json": 1}}' % IDENTITY.encode(),
            b" " * 2**21,
        ],
    )
    def test_an_odd_manifest_is_damage(self, content: bytes, entry: Path) -> None:
        (entry / entries.MANIFEST).write_bytes(content)
        assert entries.problem(entry, IDENTITY) is not None
        entries.build(entry, IDENTITY, fill, source="test")
        assert entries.problem(entry, IDENTITY) is None

    def test_every_changed_byte_of_the_manifest_is_harmless(self, entry: Path) -> None:
        manifest = (entry / entries.MANIFEST).read_bytes()
        for position in range(0, len(manifest), 7):
            changed = bytearray(manifest)
            changed[position] ^= 1
            (entry / entries.MANIFEST).write_bytes(changed)
            entries.problem(entry, IDENTITY)  # a verdict, whichever; no exception

    def test_a_file_that_was_added_is_damage(self, entry: Path) -> None:
        (entry / "adapter_config.json").write_text("{}")
        assert "adapter_config.json" in str(entries.problem(entry, IDENTITY))

    def test_a_link_is_damage(self, entry: Path, tmp_path: Path) -> None:
        target = tmp_path / "elsewhere"
        (entry / "config.json").rename(target)
        (entry / "config.json").symlink_to(target)
        assert entries.problem(entry, IDENTITY) is not None

    def test_another_model_is_damage(self, entry: Path) -> None:
        assert entries.problem(entry, "cd" * 32) == "it belongs to another model"

    def test_large_files_are_hashed_when_their_time_changes(
        self, entry: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(entries, "SMALL_FILE_BYTES", 8)
        path = entry / "model.safetensors"
        before = path.stat()
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert entries.problem(entry, IDENTITY) is None
        assert "sha256" in str(entries.problem(entry, IDENTITY, full=True))
        os.utime(path, ns=(1, 1))
        assert "sha256" in str(entries.problem(entry, IDENTITY))

    def test_a_touched_large_file_is_hashed_once(
        self, entry: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(entries, "SMALL_FILE_BYTES", 8)
        os.utime(entry / "model.safetensors", ns=(1, 1))
        assert entries.problem(entry, IDENTITY) is None
        hashed: list[str] = []
        original = entries.sha256_file
        monkeypatch.setattr(
            entries, "sha256_file", lambda path: hashed.append(path.name) or original(path)
        )
        assert entries.problem(entry, IDENTITY) is None
        assert "model.safetensors" not in hashed

    def test_a_failed_build_leaves_nothing(self, tmp_path: Path) -> None:
        def failing(fresh: Path, scratch: Path) -> None:
            fill(fresh, scratch)
            raise ModelError("no")

        with pytest.raises(ModelError):
            entries.build(tmp_path / "entry", IDENTITY, failing, source="test")
        assert [p.name for p in tmp_path.iterdir()] in ([], [".entry.lock"])

    def test_left_overs_of_a_killed_build_go(self, tmp_path: Path) -> None:
        left_over = tmp_path / ".entry.0123abcd.partial"
        left_over.mkdir()
        entries.build(tmp_path / "entry", IDENTITY, fill, source="test")
        assert not left_over.exists()

    def test_a_full_disk_is_a_resource_error(self, tmp_path: Path) -> None:
        def full(fresh: Path, scratch: Path) -> None:
            raise OSError(28, "No space left on device")

        with pytest.raises(ResourceError, match="no space left"):
            entries.build(tmp_path / "entry", IDENTITY, full, source="test")

    @pytest.mark.parametrize("step", range(8))
    def test_failing_at_any_step_leaves_the_old_or_nothing(
        self, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = 0
        original = os.fsync

        def failing(descriptor: int) -> None:
            nonlocal calls
            calls += 1
            if calls == step + 1:
                raise OSError(5, "Input/output error")
            original(descriptor)

        monkeypatch.setattr(entries.os, "fsync", failing)
        folder = tmp_path / "entry"
        try:
            entries.build(folder, IDENTITY, fill, source="test")
        except OSError:
            assert not folder.exists()
        else:
            assert entries.problem(folder, IDENTITY, full=True) is None

    def test_without_locks_the_first_rename_wins(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import filelock

        def unsupported(*_: object, **__: object) -> None:
            raise NotImplementedError

        monkeypatch.setattr(filelock.FileLock, "acquire", unsupported)
        folder = tmp_path / "entry"

        def overtaken(fresh: Path, scratch: Path) -> None:
            fill(fresh, scratch)
            entries.build(folder, IDENTITY, fill, source="other")

        entries.build(folder, IDENTITY, overtaken, source="test")
        assert entries.problem(folder, IDENTITY) is None

    def test_concurrent_writers_and_a_reader(self, tmp_path: Path) -> None:
        # Each writer replaces the entry by another model's, again and again. A reader that meets
        # the change half way may call the entry damaged, and builds; it must never fail, and
        # never accept files that are not the ones listed.
        writer = (
            "import sys, pathlib, random\n"
            "from lmi_cli.checkpoints import entries\n"
            "folder = pathlib.Path(sys.argv[1])\n"
            "def fill(fresh, scratch):\n"
            "    for n in range(5): (fresh / f'{n}.json').write_bytes(random.randbytes(5000))\n"
            "for n in range(12):\n"
            "    entries.build(folder, sys.argv[2] if n % 3 else str(random.random()), fill,"
            " source='w')\n"
            "entries.build(folder, sys.argv[2], fill, source='w')\n"
        )
        folder = tmp_path / "entry"
        command = [sys.executable, "-c", writer, str(folder), IDENTITY]
        writers = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
        verdicts: list[str] = []
        while any(process.poll() is None for process in writers):
            verdict = entries.problem(folder, IDENTITY)
            if verdict is not None:
                verdicts.append(verdict)
        for process in writers:
            assert process.communicate()[1] == b""
            assert process.returncode == 0
        expected = ("it is incomplete", "it belongs to another model", "files differ", "wrong s")
        assert [v for v in verdicts if not any(words in v for words in expected)] == []
        assert entries.problem(folder, IDENTITY, full=True) is None
        assert not list(folder.parent.glob("*.partial"))


class TestRoot:
    def test_no_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import platformdirs

        for name in ("LMI_CACHE_DIR", "LMI_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(platformdirs, "user_cache_path", lambda *_, **__: Path("~/.cache/lmi"))
        root = entries.writable_root()
        assert root.folder.is_dir()
        assert "no home folder" in root.notes[0]

    def test_a_file_in_the_way(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path / "file"))
        root = entries.writable_root()
        assert root.folder.is_dir()
        assert "cannot be written" in root.notes[0]

    def test_read_only(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # chmod does not stop root, so the refusal of the system is made here.
        def denied(self: Path, *_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied", str(self))

        cache.mkdir()
        monkeypatch.setattr(Path, "touch", denied)
        root = entries.writable_root()
        assert cache not in root.folder.parents
        assert "Permission denied" in root.notes[0]
