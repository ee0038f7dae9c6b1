"""The JSON object that every command prints with ``--json``."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lmi_cli.cli.request import Request
from lmi_cli.cli.session import Opened
from lmi_cli.memory import peak_rss_bytes

if TYPE_CHECKING:
    from lmi_cli.models.known import KnownModel
    from lmi_cli.tasks.report import ReadingReport, Timing
    from lmi_cli.tasks.statefile import StateFileHeader
    from lmi_cli.tasks.summary import SummaryReport

SCHEMA_VERSION = 1


def model_object(opened: Opened) -> dict[str, Any]:
    """``model``: which one, and how it is loaded."""
    files, lm = opened.loaded.files, opened.loaded.lm
    return {
        "id": files.id,
        "kind": files.kind,
        "identity": files.identity,
        "family": lm.family,
        "trained_length": lm.trained_length,
        "dtype": lm.dtype_name,
        "quantize": lm.quantize,
        "device_map": lm.device_map,
    }


def known_model_object(known: "KnownModel") -> dict[str, Any]:
    """``model``, for one whose weights stay unread."""
    files, facts = known.files, known.facts
    return {
        "id": files.id,
        "kind": files.kind,
        "identity": files.identity,
        "family": facts.family,
        "trained_length": facts.trained_length,
        "dtype": known.precision.dtype,
        "quantize": known.precision.quantize,
        "device_map": None,
    }


def stored_model_object(header: "StateFileHeader") -> dict[str, Any]:
    """``model``, for one of which only a state file is here."""
    return {
        "id": header.model,
        "kind": None,
        "identity": header.identity,
        "family": None,
        "trained_length": None,
        "dtype": header.dtype,
        "quantize": header.quantize,
        "device_map": None,
    }


def memory_object(
    weights: int, cache: int | None, store: int | None = 0, device_peak: int | None = None
) -> dict[str, Any]:
    """``memory`` of this process, in bytes; None is unknown."""
    return {
        "peak_rss_bytes": peak_rss_bytes(),
        "weights_bytes": weights,
        "cache_bytes": cache,
        "store_bytes": store,
        "device_peak_bytes": device_peak,
    }


def parts_object(strategy: str, part_tokens: int) -> dict[str, Any]:
    """``method``, where a document is treated in parts of at most so many tokens."""
    return {"name": strategy, "bound_tokens": part_tokens, "form": "parts"}


def tokens_object(
    read: int, generated: int, visible: int | None = None, stored: int = 0
) -> dict[str, Any]:
    """``tokens``; ``visible`` is None where every token saw a different part of the text."""
    return {"read": read, "visible": visible, "stored": stored, "generated": generated}


def timing_object(opened: Opened, timing: "Timing") -> dict[str, Any]:
    """``timing``, in seconds and tokens per second."""
    return {**asdict(timing), "load_s": opened.load_s}


def sampling_object(request: Request) -> dict[str, Any]:
    """``sampling``: how tokens were chosen."""
    names = ["temperature", "top_p", "top_k", "seed", "max_new_tokens", "contrast", "rank"]
    names += ["speculate", "passages", "passage_order", "segment_score"]
    return {name: getattr(request, name) for name in names}


def dump_reading(
    command: str,
    opened: Opened,
    report: "ReadingReport",
    timing: "Timing",
    *,
    generated: int = 0,
    seen: int | None = None,
    sampling: dict[str, Any] | None = None,
    **parts: Any,
) -> str:
    """The object of a command that reads sources; ``seen`` is ``visible`` of its tokens."""
    lm = opened.loaded.lm
    sizes = lm.weights_bytes, report.cache_bytes, report.store_bytes, lm.device_peak_bytes()
    return dump(
        command,
        model=model_object(opened),
        method={
            "name": report.method,
            **report.parameters,
            "bound_tokens": report.bound_tokens,
            "form": report.form,
        },
        sources=[asdict(source) for source in report.sources],
        skipped=[asdict(item) for item in report.skipped],
        tokens=tokens_object(
            report.document_tokens - report.unread_tokens, generated, seen, report.stored_tokens
        ),
        sampling=sampling,
        timing=timing_object(opened, timing),
        memory=memory_object(*sizes),
        **parts,
    )


def dump_summary(
    model: dict[str, Any],
    opened: Opened | None,
    report: "SummaryReport",
    request: Request,
    parts: dict[str, Any],
) -> str:
    """The object of ``lmi summarize``; ``opened`` is None where no weights were loaded."""
    lm = None if opened is None else opened.loaded.lm
    return dump(
        "summarize",
        model=model,
        method=parts_object(report.strategy, report.part_tokens),
        sources=[asdict(source) for source in report.sources],
        skipped=[asdict(item) for item in report.skipped],
        tokens=tokens_object(report.tokens, report.generated, report.tokens),
        sampling=None if report.strategy == "extract" else sampling_object(request),
        timing={**asdict(report.timing), "load_s": 0.0 if opened is None else opened.load_s},
        memory=memory_object(
            0 if lm is None else lm.weights_bytes,
            None,
            device_peak=None if lm is None else lm.device_peak_bytes(),
        ),
        **parts,
    )


def dump(command: str, **parts: Any) -> str:
    """The object as ASCII text, which every encoding can represent and every terminal can show."""
    return plain({"schema_version": SCHEMA_VERSION, "command": command, **parts})


def plain(value: dict[str, Any]) -> str:
    """Any object as such text."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"
