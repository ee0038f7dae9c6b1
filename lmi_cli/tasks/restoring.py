"""From the description and the tensors of a state file to a reading, with everything checked.

Checksums show that a file is as it was written, not that whoever wrote it meant well, and kernels
trust the shapes of what they are given. So a file must contain what reading leaves behind: the
model reads one token, and every tensor must be like the one that this makes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from lmi_cli.cache.state import RECURRENT, StreamState
from lmi_cli.cache.store import TokenStore
from lmi_cli.engine import MOST_CHUNK
from lmi_cli.engine.heads import AttentionHead, RetrievalHeads
from lmi_cli.methods import METHODS, Method, MethodChoice
from lmi_cli.models.load import Loaded
from lmi_cli.models.placement import Precision
from lmi_cli.sources.blocks import Bookmark, Skipped, Source
from lmi_cli.tasks.document import Document
from lmi_cli.tasks.plan import Plan
from lmi_cli.tasks.reading import Reading, engine_of, new_means, new_stores

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Described = TypeVar("Described", bound=DataclassInstance)
else:
    Described = TypeVar("Described")

_LARGEST = 2**63 - 1
_TOKENS = 2
"""The dimension of keys and values along which their number may differ."""


def restored(
    description: Mapping[str, Any], tensors: Mapping[str, Tensor], model: Loaded
) -> Reading:
    """The reading that a state file was written from.

    Args:
        description: What its header says.
        tensors: Its tensors by name.
        model: The model that read.

    Raises:
        KeyError, TypeError, ValueError, OverflowError, UsageError: The file contains something that
            no reading leaves behind.
    """
    plan = _plan(description["plan"])
    heads = _heads(description["heads"], model)
    ids = torch.tensor(plan.prefix, dtype=torch.int64)
    if not 1 <= plan.chunk <= MOST_CHUNK or not _within(ids, model.lm.vocab_size):
        raise ValueError("its plan contains a number that is out of range")
    if plan.only_text:
        raise ValueError("its plan says that the model has read nothing")
    if plan.words and model.known.facts.layers:
        raise ValueError("its plan ranks by words alone, but the model has attention layers")
    _require_depth(plan, heads, len(model.known.facts.layers))
    engine = engine_of(model, plan)
    stores = new_stores(model, plan, heads)
    if {name: store.save()[0] for name, store in stores.items()} != description["stores"]:
        raise ValueError("its stores are not those of its plan")
    if plan.searching is not None and any(
        plan.searching.tracks(layer) != plan.method.tracks(layer) for layer in engine.layers
    ):
        raise ValueError("the method that searches keeps other tokens than the one that reads")

    example = engine.start()
    kept = {name: _from_the_first_token(store) for name, store in stores.items()}
    example.recording = tuple(kept.values())
    with torch.inference_mode():
        hidden = engine.forward(example, np.zeros(1, dtype=np.int32))
    devices = model.lm.layer_devices()
    last = tensors["last"].to(model.lm.last_device)
    _require_like("last", last, hidden[-1])
    state = _state(engine.start(), _part(tensors, "state"), example.save(), devices)
    for name, store in stores.items():
        blocks, wanted = _part(tensors, name), kept[name].save()[1]
        for place, tensor in blocks.items():
            layer, _, part = place.split(".")
            _require_like(
                f"{name}.{place}", tensor, wanted[TokenStore.tensor_name(int(layer), 0, part)]
            )
        store.restore(blocks)
        if store.tokens != max(0, state.tokens - store.first):
            raise ValueError(f"its {name} has {store.tokens:,} of {state.tokens:,} tokens")
    state.recording = tuple(stores.values())

    state.means = means = new_means(plan)
    if means is not None:
        saved = _part(tensors, "means")
        if (rows := saved.get("rows")) is not None and len(rows):
            _require_like("means.rows", rows.abs().amax(0), hidden[-1].cpu())
        if (rest := saved.get("rest")) is not None:
            _require_like("means.rest", rest, hidden[-1].cpu().float())
        means.restore(saved, max(0, state.tokens - means.first))

    document, sources, skipped = document_in(description, tensors)
    if not _within(torch.from_numpy(document.ids), model.lm.vocab_size):
        raise ValueError("its document contains an id that is not in the vocabulary")
    _require_excerpt(plan, document.tokens)
    unread = plan.read_tokens(document.tokens) + len(plan.prefix) - state.tokens
    if unread < 0 or (unread and description["complete"]):
        raise ValueError(f"its document has {document.tokens:,} tokens, {state.tokens:,} were read")
    return Reading(
        document=document,
        choice=typed(MethodChoice(**description["choice"])),
        plan=plan,
        state=state,
        last=last,
        stores=stores,
        means=means,
        heads=heads,
        sources=sources,
        skipped=skipped,
    )


def document_in(
    description: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[Document, list[Source], list[Skipped]]:
    """The document of a state file, its sources, and what was skipped.

    Raises:
        KeyError, TypeError, ValueError: The file contains something that no reading leaves behind.
    """
    sources = []
    for item in description["sources"]:
        known = {name: item[name] for name in Source.__dataclass_fields__}
        known["outline"] = [typed(Bookmark(**each)) for each in item["outline"]]
        sources.append(typed(Source(**known)))
    arrays = {name: tensor.numpy() for name, tensor in _part(tensors, "document").items()}
    document = Document.restored(description["document"], arrays, len(sources))
    return document, sources, [typed(Skipped(**item)) for item in description["skipped"]]


def typed(instance: Described) -> Described:
    """Return a dataclass whose fields have the types that it declares.

    Raises:
        TypeError: A field has another type, or is too large a number to count anything.
    """
    hints = get_type_hints(type(instance))
    for field in fields(instance):
        if not _is(getattr(instance, field.name), hints[field.name]):
            raise TypeError(f"{field.name} of {type(instance).__name__} has another type")
    return instance


def _is(value: object, hint: Any) -> bool:
    """Whether a value is of a type, as annotations of our dataclasses write types."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_is(value, each) for each in arguments)
    if origin is not None:
        if not isinstance(value, origin):
            return False
        if isinstance(value, Mapping):
            key, item = arguments
            return all(_is(k, key) and _is(v, item) for k, v in value.items())
        return all(_is(each, arguments[0]) for each in value)
    if hint in (int, float):
        numbers = int if hint is int else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool) and abs(value) <= _LARGEST
    if is_dataclass(value):
        typed(value)  # type: ignore[type-var]
    return isinstance(value, hint)


def _plan(described: Mapping[str, Any]) -> Plan:
    searching = described["searching"]
    changed = {
        "prefix": tuple(described["prefix"]),
        "method": _method(described["method"]),
        "searching": None if searching is None else _method(searching),
        "precision": Precision(**described["precision"]),
    }
    if (excerpt := described.get("excerpt")) is not None:
        first, last = excerpt
        changed["excerpt"] = (first, last)
    return typed(Plan(**{**described, **changed}))


def _method(described: Mapping[str, Any]) -> Method:
    parameters = dict(described)
    return METHODS[parameters.pop("name")](**parameters)


def _heads(described: Mapping[str, Any] | None, model: Loaded) -> RetrievalHeads | None:
    if described is None:
        return None
    heads = tuple(AttentionHead(layer, head) for layer, head in described["heads"])
    most, _ = model.lm.attention_heads
    layers = len(model.known.facts.layers)
    for head in heads:
        if not all(_is(n, int) for n in head):
            raise TypeError("a retrieval head is not a pair of numbers")
        if not (0 <= head.layer < layers and 0 <= head.head < most):
            raise ValueError(f"the model has no retrieval head {head.layer}.{head.head}")
    found = typed(RetrievalHeads(heads, described["distance"]))
    if found.distance < 1:
        raise ValueError("the distance of the retrieval heads is out of range")
    return found


def _require_depth(plan: Plan, heads: RetrievalHeads | None, layers: int) -> None:
    """Refuse a plan that leaves out layers which its own index needs."""
    if plan.depth is not None and (
        heads is None
        or plan.embeddings
        or plan.fits
        or plan.searching is not None
        or not max(head.layer for head in heads.heads) < plan.depth <= layers
    ):
        raise ValueError(f"{plan.depth} layers are not those that its index needs")


def _require_excerpt(plan: Plan, tokens: int) -> None:
    """Refuse an excerpt that is not a part of a document with so many tokens."""
    if plan.excerpt is not None and not (
        plan.fits and min(plan.excerpt) >= 0 and sum(plan.excerpt) <= tokens
    ):
        raise ValueError(f"it is an excerpt {plan.excerpt} of {tokens:,} tokens")


def _state(
    state: StreamState,
    tensors: Mapping[str, Tensor],
    example: Mapping[str, Tensor],
    devices: Sequence[torch.device],
) -> StreamState:
    if tensors.keys() != example.keys():
        raise ValueError("it keeps other tokens than its method does")
    for name, tensor in tensors.items():
        _require_like(f"state.{name}", tensor, example[name], grows=not name.startswith(RECURRENT))
    state.restore(tensors, devices)
    return state


def _require_like(name: str, tensor: Tensor, example: Tensor, *, grows: bool = True) -> None:
    """Refuse a tensor that differs from the example in more than the number of tokens.

    One that does not grow with the text may differ in nothing but its numbers.

    One with numbers that are not finite is refused too.
    """
    shapes = [list(each.shape) for each in (tensor, example)]
    if grows and len(shapes[0]) == len(shapes[1]) > _TOKENS:
        for shape in shapes:
            del shape[_TOKENS]
    if shapes[0] != shapes[1] or tensor.dtype != example.dtype:
        raise ValueError(
            f"{name} is {tensor.dtype} {list(tensor.shape)}, where this model has "
            f"{example.dtype} {list(example.shape)} for one token"
        )
    if tensor.is_floating_point() and not torch.isfinite(tensor.sum(dtype=torch.float64)):
        raise ValueError(f"{name} contains values that are not finite")


def _from_the_first_token(store: TokenStore) -> TokenStore:
    return TokenStore(
        store.heads, with_values=store.with_values, int8=store.int8, clusters=store.clusters
    )


def _within(ids: Tensor, count: int) -> bool:
    return not ids.numel() or (int(ids.min()) >= 0 and int(ids.max()) < count)


def _part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``name`` and a full stop, with that removed."""
    start = f"{name}."
    return {at.removeprefix(start): x for at, x in tensors.items() if at.startswith(start)}
