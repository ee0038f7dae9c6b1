"""Models of the Hugging Face Hub: safetensors and GGUF only; files in the Hub's cache come first.

The Hub's own client and cache are used, so access tokens, mirrors (``HF_ENDPOINT``) and models that
other tools have fetched all work. huggingface_hub is imported only for a Hub model.
"""

import contextlib
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from lmi_cli.checkpoints import validation
from lmi_cli.checkpoints.entries import ReportBytes
from lmi_cli.errors import ModelError

# The files that transformers reads from a folder. Code and pickled weights are never fetched, nor
# the second copy of the weights, in another layout, that some repositories hold.
_ALLOWED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")
_IGNORED = ("*/*", "consolidated*")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A repository on the Hub.

    Attributes:
        repository: Its id, such as 'org/name'.
        revision: Branch, tag or commit; None is the main branch.
    """

    repository: str
    revision: str | None = None


def fetch(wanted: Wanted, *, offline: bool, refresh: bool, progress: ReportBytes) -> Path:
    """Return the checked folder of a snapshot, whose name is the commit.

    Args:
        wanted: The repository.
        offline: Do not use the network.
        refresh: Ask the Hub for a newer commit even if one is cached.
        progress: Receives the progress of the download.

    Raises:
        ModelError: The model is refused, damaged, not cached or not available.
    """
    if not refresh:
        folder = _cached(wanted, None)
        if folder is not None:
            try:
                validation.check(folder)
            except ModelError:
                # An interrupted download leaves part of a snapshot; another one completes it.
                if offline or _is_complete(folder):
                    raise
            else:
                return folder
    if offline:
        raise _not_cached(wanted)
    folder = _download(wanted, None, progress)
    validation.check(folder)
    return folder


def fetch_file(
    wanted: Wanted, file: str, *, offline: bool, refresh: bool, progress: ReportBytes
) -> Path:
    """Return one GGUF file of a repository.

    Args:
        wanted: The repository.
        file: Its path in the repository.
        offline: Do not use the network.
        refresh: Ask the Hub for a newer commit even if one is cached.
        progress: Receives the progress of the download.

    Raises:
        ModelError: The file is not cached or not available.
    """
    if ".." in file.split("/"):
        raise ModelError(f"{file!r} is not a path in a repository")
    path = None if refresh else _cached(wanted, file)
    if path is None:
        if offline:
            raise _not_cached(wanted, file)
        path = _download(wanted, file, progress)
    return path


def _is_complete(folder: Path) -> bool:
    """Return whether a snapshot has the files that an interrupted download would lack."""
    names = {path.name for path in folder.iterdir()}
    if "model.safetensors.index.json" in names and "model.safetensors" not in names:
        return False
    return {"config.json", "model.safetensors"} <= names


def _cached(wanted: Wanted, file: str | None) -> Path | None:
    try:
        return Path(_from_hub(wanted, file, None, local_files_only=True))
    except (OSError, ValueError):
        return None


def _download(wanted: Wanted, file: str | None, progress: ReportBytes) -> Path:
    what = f"downloading {wanted.repository}"
    progress(0, None, what)
    try:
        if file is None:
            _require_readable(wanted)
        return Path(_from_hub(wanted, file, _progress_bar(progress, what), local_files_only=False))
    except (OSError, ValueError) as error:
        raise _failure(wanted, file, error) from error


def _require_readable(wanted: Wanted) -> None:
    """Refuse by its configuration what need not be downloaded.

    Raises:
        ModelError: The model is of no kind that can be read.
        OSError, ValueError: The Hub cannot be reached, or has no such model.
    """
    from huggingface_hub.errors import EntryNotFoundError

    with contextlib.suppress(EntryNotFoundError):  # what else is missing, the rest shows
        config = Path(_from_hub(wanted, validation.CONFIG, None, local_files_only=False))
        validation.check_config(config.parent)


def _from_hub(wanted: Wanted, file: str | None, bar: Any, *, local_files_only: bool) -> str:
    """Call huggingface_hub, which nothing else in this package does."""
    import huggingface_hub

    if file is not None:
        return huggingface_hub.hf_hub_download(
            wanted.repository,
            file,
            revision=wanted.revision,
            local_files_only=local_files_only,
            tqdm_class=bar,
        )
    return huggingface_hub.snapshot_download(
        wanted.repository,
        revision=wanted.revision,
        allow_patterns=list(_ALLOWED),
        ignore_patterns=list(_IGNORED),
        local_files_only=local_files_only,
        tqdm_class=bar,
    )


def _progress_bar(progress: ReportBytes, what: str) -> Any:
    """Return a class that huggingface_hub uses as a progress bar, but that draws nothing."""
    base: Any = import_module("tqdm.auto").tqdm

    class Bar(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Of the two byte counters of a snapshot, the one for the network is ignored.
            name = str(kwargs.pop("name", ""))
            self._counts = kwargs.get("unit") == "B" and not name.endswith(".transfer")
            self._done = int(kwargs.get("initial") or 0)
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            self._done += int(n or 0)
            if self._counts:
                progress(self._done, int(self.total) if self.total else None, what)
            return None

    return Bar


def _not_cached(wanted: Wanted, file: str | None = None) -> ModelError:
    name = _full_name(wanted, file)
    return ModelError(
        f"{name} is not cached, and offline use was asked for",
        hint=f"run once with network access: lmi models pull {name}",
    )


def _full_name(wanted: Wanted, file: str | None) -> str:
    revision = f"@{wanted.revision}" if wanted.revision else ""
    return f"{wanted.repository}{revision}" + (f":{file}" if file else "")


def _failure(wanted: Wanted, file: str | None, error: Exception) -> ModelError:
    """Describe a failure of huggingface_hub in one line, with a hint on what to do."""
    from huggingface_hub import errors

    name = _full_name(wanted, file)
    if isinstance(error, errors.GatedRepoError):
        return ModelError(
            f"{name} is gated on the Hub",
            hint="accept its terms on its page, then log in with: hf auth login",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(f"{name}: the Hub has no revision {wanted.revision!r}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelError(
            f"the Hub has no model {wanted.repository}, or you have no access to it",
            hint="check the spelling; for a private model, log in with: hf auth login",
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return ModelError(
            f"{wanted.repository} on the Hub has no file {file}",
            hint="the model's page lists its files; their names are case-sensitive",
        )
    reason = re.sub(r"\s+", " ", str(error)).strip()[:200] or type(error).__name__
    return ModelError(
        f"cannot download {name} from the Hub: {reason}",
        hint="check the network and HF_ENDPOINT, or give -m a local folder or .gguf file",
    )
