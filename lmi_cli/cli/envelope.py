"""The JSON object that every command prints with ``--json``."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lmi_cli.cli.request import Request
from lmi_cli.cli.session import Opened
from lmi_cli.memory import peak_rss_bytes

if TYPE_CHECKING:
    from lmi_cli.tasks.report import ReadingReport, Timing

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


def memory_object(opened: Opened, cache_bytes: int, store_bytes: int = 0) -> dict[str, Any]:
    """``memory``: of this process, in bytes."""
    return {
        "peak_rss_bytes": peak_rss_bytes(),
        "weights_bytes": opened.loaded.lm.weights_bytes,
        "cache_bytes": cache_bytes,
        "store_bytes": store_bytes,
        "device_peak_bytes": opened.loaded.lm.device_peak_bytes(),
    }


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
    return {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "seed": request.seed,
        "max_new_tokens": request.max_new_tokens,
    }


def reading_objects(report: "ReadingReport") -> dict[str, Any]:
    """``method``, ``sources`` and ``skipped``."""
    return {
        "method": {
            "name": report.method,
            **report.parameters,
            "bound_tokens": report.bound_tokens,
            "form": report.form,
        },
        "sources": [asdict(source) for source in report.sources],
        "skipped": [asdict(item) for item in report.skipped],
    }


def dump(command: str, **parts: Any) -> str:
    """The object as text in ASCII, which any encoding can hold and any terminal can show."""
    envelope = {"schema_version": SCHEMA_VERSION, "command": command, **parts}
    return json.dumps(envelope, indent=2, allow_nan=False) + "\n"
