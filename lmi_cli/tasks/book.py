"""A reading as a state file: read once, ask for ever.

What is fixed when a file is written: weights, dtype, tokenizer, prefix, method and its parameters,
and what was kept. What stays free: the questions, how the memory is searched, sampling.
"""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmi_cli import __version__
from lmi_cli.cache import statefile
from lmi_cli.cache.signature import is_state_file
from lmi_cli.cache.store import PARTS, StoredBlock, TokenStore
from lmi_cli.engine.heads import Head, RetrievalHeads
from lmi_cli.errors import StateFileError
from lmi_cli.models.load import Loaded
from lmi_cli.sources.blocks import Corpus, Skipped, Source
from lmi_cli.tasks.document import Document
from lmi_cli.tasks.events import Note, Progress
from lmi_cli.tasks.methodchoice import MemoryChoice, MethodChoice
from lmi_cli.tasks.reading import AnswerOptions, Reading
from lmi_cli.text.provenance import Provenance

_FIRST_SAVE_S = 60.0
_SAVE_SHARE = 10


@dataclass(frozen=True, slots=True)
class BookFacts:
    """What a state file says of itself.

    Attributes:
        path: The file.
        model: What to type after ``-m`` to get its model.
        identity: Of the model's files.
        dtype: In which the model computed.
        quantize: What its weights were rounded to, or ``none``.
        method: Name and parameters.
        chunk: Tokens in one forward pass.
        tokens: Of the document.
        complete: False for a reading that was interrupted.
        kept: ``index``, ``store``, both or neither.
        sources: Origin, size and hash of each, with what was counted.
        skipped: What was not read.
        form: ``fits`` or ``stream``.
    """

    path: Path
    model: str
    identity: str
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

    @classmethod
    def of(cls, path: Path, description: dict[str, Any]) -> "BookFacts":
        """From the description in a file.

        Raises:
            StateFileError: Something is missing.
        """
        try:
            return cls(
                path=path,
                model=str(description["model"]["id"]),
                identity=str(description["model"]["identity"]),
                dtype=str(description["model"]["dtype"]),
                quantize=str(description["model"]["quantize"]),
                method=dict(description["method"]),
                chunk=int(description["chunk"]),
                tokens=int(description["tokens"]),
                complete=bool(description["complete"]),
                kept=tuple(description["kept"]),
                sources=list(description["sources"]),
                skipped=list(description["skipped"]),
                form="fits" if description["fits"] else "stream",
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StateFileError(f"{path} is damaged: its description lacks {error}") from error


def facts_of(path: Path) -> BookFacts:
    """What a state file says of itself, without reading what it holds.

    Raises:
        StateFileError: It is damaged.
    """
    return BookFacts.of(path, statefile.describe(path))


def save(reading: Reading, path: Path, *, complete: bool = True) -> int:
    """Write a reading; returns the bytes of the file.

    Raises:
        ResourceError: There is no room for it.
    """
    document, state = reading.document, reading.state
    table, feeds, labels = document.provenance.dump()
    text = document.text.encode("utf-8", "surrogatepass")
    tensors: dict[str, Tensor] = {
        "document.ids": torch.from_numpy(np.ascontiguousarray(document.ids)),
        "document.starts": torch.from_numpy(np.ascontiguousarray(document.starts)),
        "document.text": torch.from_numpy(np.frombuffer(text, dtype=np.uint8).copy()),
        "provenance.blocks": torch.from_numpy(table),
        "provenance.line_feeds": torch.from_numpy(feeds),
        "last": reading.last,
    }
    for layer, cache in enumerate(state.caches):
        tensors[f"window.{layer}.key"] = cache.window.key
        tensors[f"window.{layer}.value"] = cache.window.value
        if cache.sinks is not None:
            tensors[f"sinks.{layer}.key"], tensors[f"sinks.{layer}.value"] = cache.sinks
    stores = {"index": reading.index, "store": reading.store}
    for name, store in stores.items():
        if store is not None:
            tensors |= _blocks_of(name, store)
    files = reading.loaded.files
    description = {
        "lmi": __version__,
        "model": {
            "id": files.id,
            "identity": files.identity,
            "dtype": _dtype_of(reading.loaded),
            "quantize": reading.loaded.lm.quantize,
        },
        "prefix": list(reading.prompt.head),
        "method": {"name": reading.engine.method.name} | reading.engine.method.parameters(),
        "choice": asdict(reading.choice),
        "chunk": reading.chunk,
        "fits": reading.fits,
        "complete": complete,
        "position": state.position,
        "window_start": [cache.window.start for cache in state.caches],
        "tokens": document.tokens,
        "chars": document.provenance.chars,
        "labels": labels,
        "source_tokens": document.source_tokens,
        "sources": [
            asdict(source) | _fingerprint(source.origin, hashed=complete)
            for source in reading.corpus.sources
        ],
        "skipped": [asdict(item) for item in reading.corpus.skipped],
        "kept": list(reading.kept),
        "heads": {
            name: {str(layer): heads for layer, heads in store.heads.items()}
            for name, store in stores.items()
            if store is not None
        },
        "first": {name: store.first for name, store in stores.items() if store is not None},
        "int8": [name for name, store in stores.items() if store is not None and store.int8],
        "looking": None if reading.looking is None else asdict(reading.looking),
    }
    statefile.write(path, tensors, description)
    return path.stat().st_size


def check(
    facts: BookFacts,
    choice: MethodChoice,
    dtype: str,
    quantize: str | None,
    identity: str | None,
) -> None:
    """Refuse what cannot be changed after reading.

    Args:
        facts: Of the file.
        choice: The method that the user asked for.
        dtype: The one that the user asked for; ``auto`` takes that of the file.
        quantize: What the user asked for; None takes what the file has.
        identity: Of the model that the user asked for, if any.

    Raises:
        StateFileError: Something differs.
    """
    wanted: dict[str, Any] = {
        "window": choice.window,
        "sinks": choice.sinks,
        "ceiling": choice.ceiling,
    }
    held: dict[str, Any] = dict(facts.method)
    if choice.name != facts.method["name"] and choice != MethodChoice():
        wanted, held = {"method": choice.name}, {"method": facts.method["name"]}
    wanted["dtype"], held["dtype"] = (None if dtype == "auto" else dtype), facts.dtype
    wanted["quantize"], held["quantize"] = quantize, facts.quantize
    wanted["model"], held["model"] = identity, facts.identity
    for name, value in wanted.items():
        if value is not None and value != held.get(name):
            raise StateFileError(
                f"{facts.path} was read with {name} {held.get(name)}, not {value}",
                hint="that is fixed when a document is read; leave it out, or read again",
            )


def restore(
    path: Path,
    loaded: Loaded,
    options: AnswerOptions,
    memory: MemoryChoice,
    choice: MethodChoice = MethodChoice(),  # noqa: B008 - frozen
) -> Reading:
    """The reading that a file holds, on a model that is loaded.

    Raises:
        StateFileError: The file is damaged, was written by another model, or lacks what is asked.
    """
    described, tensors = statefile.read(path)
    facts = BookFacts.of(path, described)
    check(facts, choice, _dtype_of(loaded), loaded.lm.quantize, loaded.files.identity)
    for kind, wanted in (("store", "memory"), ("index", "passages")):
        if memory.answer_from == wanted and kind not in facts.kept and facts.form == "stream":
            raise StateFileError(
                f"{path} holds no {kind}, so {wanted} cannot be answered from",
                hint=f"read again with --keep {kind}",
            )
    try:
        reading = _restored(described, tensors, facts, loaded, options, memory)
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise StateFileError(f"{path} does not hold what it says: {error}") from error
    if memory.int8:
        _check_int8(reading, path)
    return reading


def changes(facts: BookFacts) -> list[str]:
    """What happened to the sources on disk since they were read, one sentence each."""
    found = []
    for source in facts.sources:
        if source.get("sha256") is None:
            continue
        now = _fingerprint(source["path"], hashed=False)
        if now["modified_ns"] == source["modified_ns"]:
            continue
        if now["modified_ns"] is None:
            found.append(f"{source['origin']} is no longer there; {facts.path.name} still is")
        elif _fingerprint(source["path"], hashed=True)["sha256"] != source["sha256"]:
            found.append(f"{source['origin']} has changed since it was read")
    return found


def read_book(reading: Reading, corpus: Corpus, path: Path) -> Iterator[Progress | Note]:
    """Read ``corpus`` for a state file; what an earlier call left unfinished is gone on with.

    While it reads it saves what it has beside the file, as ``NAME.part``, at intervals that cost no
    more than a tenth of the time. The file itself is written by :func:`finish`.

    Raises:
        StateFileError: What was left unfinished is of another model, method or document.
        ResourceError: There is no room for the file.
    """
    part = _part_of(path)
    begun = None
    if is_state_file(part):
        begun = restore(part, reading.loaded, reading.options, reading.memory, reading.choice)
        if ("store" in begun.kept) != reading.memory.store:
            raise StateFileError(f"{part} was begun with another --keep", hint=f"remove {part}")
        _check_int8(begun, part)
        yield Note(f"going on where it was interrupted, behind {begun.state.tokens:,} tokens")
    saved = time.monotonic()
    pause = _FIRST_SAVE_S
    for event in reading.read(corpus, begun=begun):
        yield event
        now = time.monotonic()
        if isinstance(event, Progress) and not reading.fits and now - saved > pause:
            save(reading, part, complete=False)
            saved = time.monotonic()
            pause = max(_FIRST_SAVE_S, _SAVE_SHARE * (saved - now))


def finish(reading: Reading, path: Path) -> int:
    """Write a reading that is complete; what :func:`read_book` saved on the way goes.

    Raises:
        ResourceError: There is no room for the file.
    """
    size = save(reading, path)
    _part_of(path).unlink(missing_ok=True)
    return size


def _part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _restored(
    described: dict[str, Any],
    tensors: dict[str, Tensor],
    facts: BookFacts,
    loaded: Loaded,
    options: AnswerOptions,
    memory: MemoryChoice,
) -> Reading:
    choice = MethodChoice(**described["choice"])
    reading = Reading(loaded, choice, options, memory, chunk=facts.chunk)
    reading.choose(fits=facts.form == "fits", document_tokens=facts.tokens)
    method = reading.engine.method
    if {"name": method.name} | method.parameters() != facts.method:
        raise StateFileError(
            f"{facts.path} was read with other defaults than those of this version",
            hint="read the sources again with lmi read",
        )
    if list(reading.prompt.head) != described["prefix"]:
        raise StateFileError(
            f"{facts.path} was read behind another beginning of the prompt",
            hint="a short document is read inside the first turn: --system needs the sources",
        )
    text = tensors["document.text"].numpy().tobytes().decode("utf-8", "surrogatepass")
    reading.document = Document.restored(
        tensors["document.ids"].numpy(),
        tensors["document.starts"].numpy(),
        text,
        Provenance.restored(
            tensors["provenance.blocks"].numpy(),
            tensors["provenance.line_feeds"].numpy(),
            described["labels"],
            described["chars"],
        ),
        described["source_tokens"],
    )
    names = Source.__dataclass_fields__
    reading.corpus = Corpus(
        (),
        [Source(**{k: v for k, v in item.items() if k in names}) for item in facts.sources],
        [Skipped(**item) for item in facts.skipped],
    )
    state = reading.engine.start()
    state.position = described["position"]
    for layer, cache in enumerate(state.caches):
        device = loaded.lm.layer_device(layer)
        key, value = (tensors[f"window.{layer}.{part}"].to(device) for part in ("key", "value"))
        cache.window.append(key, value, described["window_start"][layer])
        if f"sinks.{layer}.key" in tensors:
            cache.add_sinks(*(tensors[f"sinks.{layer}.{p}"].to(device) for p in ("key", "value")))
    reading.state = state
    reading.last = tensors["last"].to(loaded.lm.layer_device(len(state.caches) - 1))
    reading.index = _store_of("index", described, tensors)
    reading.store = _store_of("store", described, tensors)
    if described["looking"] is not None:
        heads = tuple(Head(*head) for head in described["looking"]["heads"])
        reading.looking = RetrievalHeads(heads, described["looking"]["distance"])
    state.keep(*(store for store in (reading.index, reading.store) if store is not None))
    return reading


def _check_int8(reading: Reading, path: Path) -> None:
    if reading.store is not None and reading.store.int8 != reading.memory.int8:
        held = "in eight bits" if reading.store.int8 else "in full"
        raise StateFileError(
            f"{path} holds its store {held}",
            hint="that is fixed when a document is read; leave --memory-int8 as it was",
        )


def _blocks_of(name: str, store: TokenStore) -> dict[str, Tensor]:
    tensors = {}
    for layer in store.heads:
        for number, block in enumerate(store.stored(layer)):
            place = f"{name}.{layer}.{number:06d}"
            for part, tensor in block.parts.items():
                tensors[f"{place}.{part}"] = tensor[:, :, : block.tokens]
    return tensors


def _store_of(
    name: str, described: dict[str, Any], tensors: dict[str, Tensor]
) -> TokenStore | None:
    if name not in described["kept"]:
        return None
    store = TokenStore(
        {int(layer): heads for layer, heads in described["heads"][name].items()},
        with_values=name == "store",
        first=described["first"][name],
        int8=name in described["int8"],
    )
    for layer in store.heads:
        blocks: list[StoredBlock] = []
        start = store.first
        while f"{name}.{layer}.{len(blocks):06d}.key" in tensors:
            place = f"{name}.{layer}.{len(blocks):06d}"
            found = {part: tensors.get(f"{place}.{part}") for part in PARTS}
            parts = {part: tensor for part, tensor in found.items() if tensor is not None}
            blocks.append(StoredBlock(parts, start, parts["key"].shape[2]))
            start += blocks[-1].tokens
        store.restore(layer, blocks)
    return store


def _dtype_of(loaded: Loaded) -> str:
    return str(loaded.lm.dtype).removeprefix("torch.")


def _fingerprint(origin: str, *, hashed: bool) -> dict[str, Any]:
    """Path, time of the last change and hash of a source on disk; None for what is not there."""
    path = Path(origin)
    found: dict[str, Any] = {"path": origin, "modified_ns": None, "sha256": None}
    try:
        if path.is_file():
            found |= {"path": str(path.absolute()), "modified_ns": path.stat().st_mtime_ns}
            if hashed:
                with path.open("rb") as file:
                    found["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        pass
    return found
