"""Models of the Hub: what is on disk first, safetensors and GGUF only, refusals in one line."""

from pathlib import Path
from typing import Any

import pytest
from model_builders import model_folder
from resolving import refusal

from lmi_cli.checkpoints import hub, resolve


class FakeHub:
    """Stands for huggingface_hub: what is cached, what can be fetched, and what was asked."""

    def __init__(self, tmp_path: Path) -> None:
        self.snapshot = tmp_path / "snapshots" / ("c" * 40)
        self.cached = False
        self.online = True
        self.config: dict[str, Any] = {}
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
            model_folder(self.snapshot, **self.config)
            self.cached = True
        return str(self.snapshot / file if file else self.snapshot)

    @property
    def snapshots(self) -> list[bool]:
        """Which requests for whole models were for what is on disk."""
        return [local for *_, file, local in self.asked if file is None]


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
        assert fake_hub.snapshots == [True, False, True]

    @pytest.mark.parametrize(("spec", "revision"), [("org/name@v1.0", None), ("org/name", "v1.0")])
    def test_revision(self, spec: str, revision: str | None, fake_hub: FakeHub) -> None:
        resolve.resolve(spec, revision=revision)
        assert fake_hub.asked[0] == ("org/name", "v1.0", None, True)

    def test_two_revisions(self, fake_hub: FakeHub) -> None:
        assert "already names a revision" in refusal("org/name@a", revision="b").message

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
        assert fake_hub.snapshots.count(False) == 1

    def test_a_model_is_refused_by_its_configuration_before_it_is_downloaded(
        self, fake_hub: FakeHub
    ) -> None:
        fake_hub.config = {"model_type": "t5"}
        assert "encoder-decoder" in refusal("org/name").message
        assert fake_hub.snapshots == [True]
        assert fake_hub.asked[-1] == ("org/name", None, "config.json", False)

    def test_pull_asks_the_hub_first(self, fake_hub: FakeHub) -> None:
        resolve.resolve("org/name")
        resolve.pull("org/name")
        assert fake_hub.snapshots == [True, False, False]

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
        assert "not a path" in refusal("org/name:a/../../b.gguf").message
        assert fake_hub.asked == []


def test_what_is_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import RemoteEntryNotFoundError

    asked: dict[str, Any] = {}

    def snapshot_download(repo: str, **options: Any) -> str:
        asked.update(options)
        if options["local_files_only"]:
            raise FileNotFoundError
        bar = options["tqdm_class"](total=0, unit="B", name="huggingface_hub.snapshot_download")
        bar.total = 100
        bar.update(40)
        return str(model_folder(tmp_path / "model"))

    def no_such_file(*_: object, **__: object) -> str:
        raise RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_such_file)
    seen: list[tuple[int, int | None, str]] = []
    resolve.resolve("org/name", progress=lambda *report: seen.append(report))
    assert (40, 100, "downloading org/name") in seen
    patterns = asked["allow_patterns"]
    assert "*.safetensors" in patterns
    assert not [p for p in patterns if p.endswith((".bin", ".pt", ".py"))]
    assert "*/*" in asked["ignore_patterns"]
