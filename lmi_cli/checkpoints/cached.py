"""The models in the cache, and what was made of them: listed and removed together.

Imports nothing heavy.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from lmi_cli.checkpoints import entries
from lmi_cli.checkpoints.catalog import CATALOG
from lmi_cli.checkpoints.resolve import HUB_SPEC, ModelFiles, entry_name
from lmi_cli.disk import Record, cache_folder
from lmi_cli.errors import ModelError

_PACKED, _DEQUANTIZED = "packed", "-bfloat16"


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One line of ``lmi models``.

    Attributes:
        name: What to type after ``-m``, ``pull`` or ``rm``.
        summary: Description, or the file it was made from.
        folder: Where it is cached, or None; for packed weights alone, their file.
        size_bytes: Space it takes in the cache, packed weights included.
        problem: Why it will be built again on its next use, or None.
    """

    name: str
    summary: str
    folder: Path | None
    size_bytes: int
    problem: str | None


def packed_file(identity: str, name: str) -> Path | None:
    """Where packed weights of a model belong; None if there is no cache.

    Args:
        identity: Of the model.
        name: Distinguishes them from others of that model.
    """
    root = cache_folder()
    return None if root is None else root / _PACKED / f"{_packed_stem(identity)}-{name}.safetensors"


def packed_record(path: Path) -> Record:
    """What is known of a file of packed weights."""
    return Record(_PACKED, path.name)


def dequantized_entry(files: ModelFiles) -> tuple[str, str]:
    """Identity and name of the entry with a model's blocks in bfloat16."""
    return f"bfloat16 of {files.identity}", f"{files.folder.name}{_DEQUANTIZED}"


def _packed_stem(identity: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", identity)[:32]


def _packed_files(identity: str | None = None) -> list[Path]:
    """Packed weights in the cache: those of a model, or of all."""
    root = cache_folder()
    pattern = "*" if identity is None else f"{_packed_stem(identity) or 'none'}-*"
    return [] if root is None else sorted((root / _PACKED).glob(f"{pattern}.safetensors"))


def list_models() -> list[ListedModel]:
    """Return the names of the catalog, everything converted so far, and weights packed for others.

    Hub snapshots are not listed: they are in the Hub's own cache, which other tools share.
    """
    root = cache_folder()
    models = root / "models" if root is not None else None
    found = []
    listed: set[str] = set()
    for model in CATALOG.values():
        folder = models / entry_name(model.name, model.gguf_sha256) if models else None
        if folder is not None and folder.is_dir():
            listed.add(folder.name)
            found.append(_listed(model.name, model.summary, folder, model.gguf_sha256))
        else:
            found.append(ListedModel(model.name, model.summary, None, 0, None))
    if models is not None and models.is_dir():
        for folder in sorted(models.iterdir()):
            manifest = entries.read_manifest(folder)
            if folder.name.startswith(".") or folder.name in listed or not folder.is_dir():
                continue
            summary = str(manifest["source"]) if manifest and "source" in manifest else "damaged"
            found.append(_listed(folder.name, summary, folder, None))
    own = {path for m in found if m.folder for path in _packed_files(_identity(m.folder))}
    for path in _packed_files():
        if path not in own:
            size = path.stat().st_size
            summary = "packed weights of a model that is not in this cache"
            found.append(ListedModel(path.stem, summary, path, size, None))
    return found


def _identity(folder: Path) -> str:
    manifest = entries.read_manifest(folder)
    return str(manifest["identity"]) if manifest and "identity" in manifest else folder.name


def remove(name: str) -> int:
    """Delete a converted model from the cache and return the bytes freed.

    Args:
        name: A name as `list_models` gives it.

    Raises:
        ModelError: Nothing of that name is cached, or it cannot be deleted.
    """
    for model in list_models():
        if model.name == name and model.folder is not None:
            try:
                _remove(model.folder)
                return model.size_bytes
            except OSError as error:
                raise ModelError(f"{model.folder} cannot be deleted: {error.strerror}") from error
    hint = "lmi models lists what is cached"
    if HUB_SPEC.fullmatch(name):
        hint = f"Hub models are in the Hub's own cache; delete one with: hf cache rm model/{name}"
    raise ModelError(f"{name} is not in lmi's cache", hint=hint)


def _remove(entry: Path) -> None:
    """Delete an entry and all that was made of it, or a file of packed weights."""
    packed = [entry]
    if entry.is_dir():
        packed = _packed_files(_identity(entry))
        dequantized = entry.with_name(f"{entry.name}{_DEQUANTIZED}")
        entries.discard(entry)
        if dequantized.is_dir():
            entries.discard(dequantized)
    for path in packed:
        path.unlink(missing_ok=True)
        if (record := packed_record(path).path) is not None:
            record.unlink(missing_ok=True)


def _listed(name: str, summary: str, folder: Path, identity: str | None) -> ListedModel:
    files = [path for path in folder.iterdir() if path.is_file()]
    size = sum(path.stat().st_size for path in (*files, *_packed_files(_identity(folder))))
    return ListedModel(name, summary, folder, size, entries.problem(folder, identity))
