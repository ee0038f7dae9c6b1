"""State files: a reading is saved, and restored later for further questions.

A file fixes the weights, their precision, the tokenizer, the prefix, the method with the parameters
used while reading, and the choice of index and store. The questions, the search of the store and
sampling remain free.
"""

import contextlib
import hashlib
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmi_cli import __version__
from lmi_cli.cache import statefile
from lmi_cli.cache.signature import is_state_file
from lmi_cli.errors import StateFileError, UsageError
from lmi_cli.methods import Parameter
from lmi_cli.methods.base import named_parameters
from lmi_cli.models.load import Loaded
from lmi_cli.sources.blocks import Skipped, Source
from lmi_cli.tasks.document import Document
from lmi_cli.tasks.events import Note, Progress
from lmi_cli.tasks.plan import Plan, ReadingRequest
from lmi_cli.tasks.reading import Reading, read
from lmi_cli.tasks.restoring import document_in, restored, typed
from lmi_cli.text.stream import TokenStream

# What may be raised when content is used that no reading has left behind.
_FOREIGN = (
    AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError, UsageError,
)  # fmt: skip

_FIRST_SAVE_S = 60.0
_SAVE_SHARE = 10


@dataclass(frozen=True, slots=True)
class StateFileHeader:
    """The description of a state file.

    Attributes:
        model: The value of ``--model`` that selects its model.
        identity: Identity of the model's files.
        weights: Number of weights of the model.
        quantize: How linear layers kept their weights; see :class:`LanguageModel`.
        method: Name and parameters.
        chunk: Tokens in one forward pass.
        tokens: Length of the document.
        complete: False for an interrupted reading.
        kept: ``index``, ``store``, both or neither.
        sources: Origin, counts, size and hash of each source.
        form: ``fits`` or ``stream``.
    """

    path: Path
    model: str
    identity: str
    weights: int
    dtype: str
    quantize: str
    method: dict[str, Any]
    chunk: int
    tokens: int
    complete: bool
    kept: tuple[str, ...]
    sources: list[dict[str, Any]]
    skipped: list[dict[str, str]]
    form: str
    depth: int | None
    index: str | None


def header_of(path: Path, description: Mapping[str, Any] | None = None) -> StateFileHeader:
    """Check the description of a state file, which is read from the file if it is None.

    Raises:
        StateFileError: It is damaged.
    """
    description = statefile.read_description(path) if description is None else description
    try:
        model, plan = description["model"], description["plan"]
        embedded = ["index"] if plan["embeddings"] or plan.get("words") else []
        for source in description["sources"]:
            typed(_Fingerprint(**{name: source[name] for name in _Fingerprint.__slots__}))
        for item in (*description["sources"], *description["skipped"]):
            str.encode(item["origin"])
        return StateFileHeader(
            path=path,
            model=str(model["id"]),
            identity=str(model["identity"]),
            weights=int(model["weights"]),
            dtype=str(plan["precision"]["dtype"]),
            quantize=str(plan["precision"]["quantize"]),
            method={**plan["method"], "name": str(plan["method"]["name"])},
            chunk=int(plan["chunk"]),
            tokens=int(description["document"]["tokens"]),
            complete=bool(description["complete"]),
            kept=tuple(sorted({*map(str, description["stores"]), *embedded})),
            sources=list(description["sources"]),
            skipped=list(description["skipped"]),
            form="fits" if plan["fits"] else "stream",
            index=_index_name(plan),
            depth=None if plan["depth"] is None else int(plan["depth"]),
        )
    except _FOREIGN as error:
        raise StateFileError(f"{path} is damaged: in its description: {error}") from error


def _index_name(plan: Mapping[str, Any]) -> str | None:
    """The value of ``--index`` by which a plan in a description has been made."""
    rest = "heads" if plan["index"] else "words" if plan.get("words") else None
    return "full" if plan["embeddings"] else rest


def save(model: Loaded, reading: Reading, path: Path, *, complete: bool = True) -> int:
    """Save a reading; return the size of the file in bytes.

    Raises:
        ResourceError: The disk is full, or the folder cannot be written.
        UsageError: The model has read nothing of the document.
    """
    if reading.plan.only_text:
        raise UsageError(
            "nothing has been read yet that a state file could keep",
            hint="--answer-from xl3m and chain read the text with each question",
        )
    plan, (document, arrays) = reading.plan, reading.document.save()
    tensors: dict[str, Tensor] = {"last": reading.last}
    for name, array in arrays.items():
        tensors[f"document.{name}"] = torch.from_numpy(np.ascontiguousarray(array))
    tensors |= {f"state.{name}": tensor for name, tensor in reading.state.save().items()}
    stores: dict[str, Any] = {}
    for name, store in reading.stores.items():
        stores[name], parts = store.save()
        tensors |= {f"{name}.{place}": tensor for place, tensor in parts.items()}
    if reading.means is not None:
        tensors |= {f"means.{name}": tensor for name, tensor in reading.means.save().items()}
    description = {
        "lmi": __version__,
        "model": {
            "id": model.files.id,
            "identity": model.files.identity,
            "weights": model.known.facts.weights,
        },
        "choice": {"name": reading.choice.name, "given": reading.choice.fixed},
        "plan": {field: getattr(plan, field) for field in Plan.__dataclass_fields__}
        | {
            "prefix": list(plan.prefix),
            "method": named_parameters(plan.method),
            "searching": None if plan.searching is None else named_parameters(plan.searching),
            "precision": asdict(plan.precision),
        },
        "complete": complete,
        "document": document,
        "stores": stores,
        "heads": None if reading.heads is None else asdict(reading.heads),
        "sources": [
            asdict(s) | asdict(_fingerprint(s.origin, hashed=complete)) for s in reading.sources
        ],
        "skipped": [asdict(item) for item in reading.skipped],
    }
    statefile.write(path, tensors, description)
    return path.stat().st_size


def check(
    header: StateFileHeader,
    *,
    method: str | None = None,
    given: Mapping[str, Parameter] | None = None,
    dtype: str = "auto",
    quantize: str | None = None,
    identity: str | None = None,
    keep: Sequence[str] | None = None,
    index: str | None = None,
) -> None:
    """Refuse to use a file with other settings than those it was read with.

    None and the dtype ``auto`` accept any value. ``given`` are the method's options that reading
    fixes, ``identity`` is that of the model's files, ``keep`` names the stores, and ``index`` is
    ``full`` or ``heads``.

    Raises:
        StateFileError: A setting differs.
    """
    stores = None if keep is None else ", ".join(sorted(keep))
    settings: dict[str, tuple[Any, Any]] = {
        **{name: (value, header.method.get(name)) for name, value in (given or {}).items()},
        "method": (method, header.method["name"]),
        "dtype": (None if dtype == "auto" else dtype, header.dtype),
        "quantize": (None if quantize == "auto" else quantize, header.quantize),
        "model": (identity, header.identity),
        "keep": (stores, ", ".join(sorted(header.kept))),
        "index": (index, header.index),
    }
    for name, (wanted, actual) in settings.items():
        if wanted is not None and wanted != actual:
            differs = f"{name} {actual}, not {wanted}"
            if name == "model":
                differs = f"the model {header.model}, not with this one"
            raise StateFileError(
                f"{header.path} was read with {differs}",
                hint="this is fixed when a document is read: omit the option, or read again",
            )


def require_kept(header: StateFileHeader, answer_from: str) -> None:
    """Refuse to answer from what is not in the file.

    Raises:
        StateFileError: There is no such index or store, or only the layers that an index needs.
    """
    for kind, wanted in (("store", "memory"), ("index", "passages")):
        if answer_from == wanted and kind not in header.kept and header.form == "stream":
            raise StateFileError(
                f"{header.path} contains no {kind}, which --answer-from {wanted} needs",
                hint=f"read the documents again with --keep {kind}",
            )
    if answer_from in ("window", "memory") and header.depth is not None:
        raise StateFileError(
            f"{header.path} was read for its index only, so nothing can be answered from "
            f"{answer_from}",
            hint=f"read the documents again without --index heads: lmi read ... -o {header.path}",
        )


def restore(path: Path, model: Loaded) -> Reading:
    """Restore the reading saved in a file, on a loaded model.

    Raises:
        StateFileError: The file is damaged, or was written by another model.
    """
    description, tensors = statefile.read(path)
    header, lm = header_of(path, description), model.lm
    same = {lm.quantize, header.quantize} <= {"none", "blocks"}  # the same weights
    quantize = None if same else lm.quantize
    check(header, dtype=lm.dtype_name, quantize=quantize, identity=model.files.identity)
    try:
        return restored(description, tensors, model)
    except _FOREIGN as error:
        message = f"{path} is damaged: its contents do not match its description: {error}"
        raise StateFileError(message) from error


def document_of(path: Path) -> tuple[Document, list[Source], list[Skipped]]:
    """The document in a file with its sources, and what was skipped; no model is needed.

    Raises:
        StateFileError: The file is damaged, or of an interrupted reading.
    """
    description, tensors = statefile.read(path)
    require_complete(header_of(path, description))
    try:
        return document_in(description, tensors)
    except _FOREIGN as error:
        message = f"{path} is damaged: its contents do not match its description: {error}"
        raise StateFileError(message) from error


def require_complete(header: StateFileHeader) -> None:
    """Refuse the file of an interrupted reading.

    Raises:
        StateFileError: It is one.
    """
    if not header.complete:
        raise StateFileError(
            f"{header.path} is an interrupted reading",
            hint="run the same lmi read command again to continue it",
        )


def changes(header: StateFileHeader) -> list[str]:
    """Changes to the sources on disk since they were read, one sentence each."""
    found = []
    for source in header.sources:
        if source["sha256"] is None:
            continue
        now = _fingerprint(source["path"], hashed=False)
        if now.modified_ns == source["modified_ns"]:
            continue
        if now.modified_ns is None:
            found.append(f"{source['origin']} no longer exists; {header.path.name} has its text")
        elif (
            now.bytes != source["bytes"]
            or _fingerprint(source["path"], hashed=True).sha256 != source["sha256"]
        ):
            found.append(f"{source['origin']} has changed since it was read")
    return found


def read_into(
    model: Loaded,
    stream: TokenStream,
    request: ReadingRequest,
    path: Path,
    *,
    behind: Reading | None = None,
) -> Generator[Progress | Note, None, Reading]:
    """Read a document for a state file, or continue an interrupted reading of it.

    The reading so far is saved beside the file, as ``NAME.part``, at intervals such that saving
    takes at most a tenth of the time. The file itself is written by :func:`finish`.

    With ``behind``, a complete reading, the stream is appended to it. Nothing is saved on the way
    then, since the file with that reading still exists.

    Raises:
        StateFileError: The interrupted reading is of another model, method or document.
        ResourceError: The disk is full.
    """
    if behind is not None:
        return (yield from read(model, stream, request, earlier=behind, append=True))
    part, earlier = _part_of(path), None
    saved, pause = time.monotonic(), _FIRST_SAVE_S

    def save_part(reading: Reading) -> None:
        nonlocal saved, pause
        now = time.monotonic()
        if not reading.plan.fits and now - saved > pause:
            save(model, reading, part, complete=False)
            saved = time.monotonic()
            pause = max(_FIRST_SAVE_S, _SAVE_SHARE * (saved - now))

    try:
        if is_state_file(part):
            earlier = restore(part, model)
            done = earlier.state.tokens
            yield Note(f"continuing after the {done:,} tokens of an interrupted run")
        return (yield from read(model, stream, request, earlier=earlier, after_chunk=save_part))
    except StateFileError as error:
        raise StateFileError(
            f"the interrupted reading in {part} cannot be continued: {error.message}",
            hint=f"remove {part} to start again",
        ) from error


def finish(model: Loaded, reading: Reading, path: Path) -> int:
    """Save a complete reading, and delete the file that :func:`read_into` wrote on the way.

    Raises:
        ResourceError: The disk is full.
    """
    size = save(model, reading, path)
    _part_of(path).unlink(missing_ok=True)
    return size


def _part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


@dataclass(frozen=True, slots=True)
class _Fingerprint:
    """How a source is recognised.

    Attributes:
        path: Absolute, for a file on disk.
        bytes: Its size.
        modified_ns: When it was last modified, in nanoseconds since the epoch.
        sha256: Of its content, or None if that was not asked for. The last three are None for
            whatever is not a file on disk.
    """

    path: str
    bytes: int | None = None
    modified_ns: int | None = None
    sha256: str | None = None


def _fingerprint(origin: str, *, hashed: bool) -> _Fingerprint:
    """The fingerprint of a source as it is now.

    No more is read than the size says, since some files of the system never end.
    """
    path = Path(origin)
    with contextlib.suppress(OSError, ValueError):
        if path.is_file():
            about = path.stat()
            sha256 = _sha256(path, about.st_size) if hashed else None
            return _Fingerprint(str(path.absolute()), about.st_size, about.st_mtime_ns, sha256)
    return _Fingerprint(origin)


def _sha256(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (data := file.read(min(size, 2**20))):
            digest.update(data)
            size -= len(data)
    return digest.hexdigest()
