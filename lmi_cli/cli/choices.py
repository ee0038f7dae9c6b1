"""Turns a request into options of tasks, sources and models; heavy imports are made when needed.

All functions raise a UsageError if a value is unknown or out of range, or if options contradict
each other.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lmi_cli.cli.request import Request
from lmi_cli.cli.values import REREADING_BASES, names
from lmi_cli.engine import MEASURES, MOST_CHUNK, SPECULATE
from lmi_cli.errors import UsageError

if TYPE_CHECKING:
    from lmi_cli.engine.sampling import Sampling
    from lmi_cli.methods import MethodChoice
    from lmi_cli.models.known import KnownModel
    from lmi_cli.models.placement import Placement
    from lmi_cli.sources import ReadOptions
    from lmi_cli.tasks.asking import AnswerOptions
    from lmi_cli.tasks.plan import MemoryChoice, ReadingRequest
    from lmi_cli.text.prompts import Prompts

Asked = TypeVar("Asked", bound=Request)

_LARGEST_CONTRAST = 10.0

_BUDGET_SHARE = 4
"""By default, index and store may take one part in this many of the machine's memory."""


def method_choice(request: Request) -> "MethodChoice":
    """The method that the user asked for."""
    from lmi_cli.methods import MethodChoice

    if request.chunk is not None and not 1 <= request.chunk <= MOST_CHUNK:
        raise UsageError(f"--chunk {request.chunk:,}: the range is 1 to {MOST_CHUNK:,}")
    if request.method is None:
        return MethodChoice(given=request.given)
    return MethodChoice(request.method, request.given, by_default=False)


def compared(request: Asked, text: str) -> list[Asked]:
    """The request for each method of a list, with those of the given options that it has."""
    from lmi_cli.methods import METHODS

    methods = names(text)
    if request.method is not None:
        raise UsageError("--method cannot be combined with --compare")
    if len(set(methods)) != len(methods) or not methods:
        raise UsageError("--compare needs methods, each once", hint="one of " + ", ".join(METHODS))
    requests, used = [], set[str]()
    for name in methods:
        options = {option.name for option in METHODS[name].options} if name in METHODS else set()
        given = {key: value for key, value in request.given.items() if key in options}
        used |= given.keys()
        requests.append(replace(request, method=name, given=given))
        method_choice(requests[-1])
    if unused := request.given.keys() - used:
        flags = ", ".join("--" + name.replace("_", "-") for name in sorted(unused))
        raise UsageError(f"none of the methods in --compare has {flags}")
    return requests


def memory_choice(request: Request, keep: str | None = None) -> "MemoryChoice":
    """What is kept while reading, and the basis of answers.

    ``keep`` is ``index``, ``store`` or ``both``; None keeps whatever the answers need.
    """
    from lmi_cli.tasks.plan import INDEXES, NO_MEMORY, ORDERS, PARTWISE, RANKS, MemoryChoice

    asked, budget = request.answer_from, request.memory_budget
    if keep not in (None, "index", "store", "both"):
        raise UsageError(f"unknown value {keep!r} for --keep", hint="one of index, store, both")
    for flag, value, known in (
        ("--index", request.index or INDEXES[0], INDEXES),
        ("--rank", request.rank, RANKS),
        ("--passage-order", request.passage_order, ORDERS),
        ("--segment-score", request.segment_score, MEASURES),
    ):
        if value not in known:
            raise UsageError(
                f"unknown value {value!r} for {flag}", hint="one of " + ", ".join(known)
            )
    _require_rereading(request)
    if request.no_memory:
        if asked not in ("auto", "window"):
            raise UsageError(f"--answer-from {asked} cannot be combined with --no-memory")
        if flags := _searching(request):
            raise UsageError(f"{flags[0]} cannot be combined with --no-memory")
        return NO_MEMORY
    if budget is None:
        budget = default_memory_budget()
    elif budget < 0:
        raise UsageError(f"--memory-budget {budget}: the smallest is 0")
    searching = _searching(request)
    if asked == "auto" and searching:
        asked = "memory"  # an option of the store's search implies that it is to be searched
    if searching and asked not in ("memory", *PARTWISE):
        raise UsageError(
            f"{searching[0]} says how a store is searched, but --answer-from {asked} searches none"
        )
    if asked in PARTWISE:
        unused = {"--index": request.index, "--memory-int8": request.memory_int8}
        for flag in (*(flag for flag, used in unused.items() if used), *searching):
            raise UsageError(
                f"--answer-from {asked} keeps nothing, so it cannot be combined with {flag}"
            )
        return MemoryChoice(asked, index=False)
    if keep is None:
        keep = "both" if asked == "memory" else "index"
    return MemoryChoice(
        asked,
        index=keep != "store",
        embeddings=request.index != "heads",
        store=keep != "index",
        int8=request.memory_int8,
        budget_bytes=budget,
    )


def default_memory_budget() -> int:
    """Bytes of RAM for index and store, if the user says nothing."""
    import psutil

    return int(psutil.virtual_memory().total) // _BUDGET_SHARE


def _searching(request: Request) -> list[str]:
    """The options that say how the store is searched."""
    choice = method_choice(request)
    return [_flag(name) for name in choice.given if name not in choice.fixed]


def require_reading(request: Request) -> None:
    """Refuse bases of answers for which nothing is read beforehand."""
    from lmi_cli.tasks.plan import PARTWISE

    if request.answer_from in PARTWISE:
        raise UsageError(
            f"--answer-from {request.answer_from} reads a text anew with each question, so it is "
            "an option of qa, chat and eval only"
        )


def require_no_method(request: Request) -> None:
    """Refuse a method where documents are not read by one."""
    memory_choice(request).require_no_method(method_choice(request))


def _require_rereading(request: Request) -> None:
    """Refuse options about passages and segments where none is read again."""
    asked = request.answer_from
    if request.passages is not None and request.passages < 1:
        raise UsageError(f"--passages {request.passages}: the smallest is 1")
    for name, used in (
        ("passages", request.passages is not None),
        ("passage_order", request.passage_order != "document"),
        ("segment_score", request.segment_score != MEASURES[0]),
    ):
        bases = REREADING_BASES[name]
        if used and (asked not in bases or request.no_memory):
            basis = "--no-memory" if request.no_memory else f"--answer-from {asked}"
            raise UsageError(
                f"{_flag(name)} cannot be combined with {basis}",
                hint="it is an option of --answer-from " + " and ".join(bases[-2:]),
            )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def sampling_of(request: Request) -> "Sampling":
    """How tokens are chosen."""
    from lmi_cli.engine.sampling import Sampling

    if request.max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens {request.max_new_tokens}: the smallest is 1")
    if not 0.0 <= request.contrast <= _LARGEST_CONTRAST:
        raise UsageError(
            f"--contrast {request.contrast:g}: the range is 0 to {_LARGEST_CONTRAST:g}"
        )
    if request.speculate not in SPECULATE:
        raise UsageError(
            f"unknown value {request.speculate!r} for --speculate",
            hint="one of " + ", ".join(SPECULATE),
        )
    return Sampling(request.temperature, request.top_p, request.top_k, request.seed)


def prompts_of(request: Request, known: "KnownModel", label: str | None = None) -> "Prompts":
    """The prompts.

    ``label`` introduces a question that shares a turn with the document; None is the usual label.
    """
    from lmi_cli.text import prompts

    label = prompts.QUESTION_LABEL if label is None else label
    return prompts.prompts_of(known.tokenizer, known.template, request.system, label)


def reading_request(
    request: Request, prompts: "Prompts", chunk: int, keep: str | None = None
) -> "ReadingRequest":
    """The part of a request that decides how a document is read."""
    from lmi_cli.tasks.plan import ReadingRequest

    method, memory = method_choice(request), memory_choice(request, keep)
    return ReadingRequest(prompts, method, memory, request.max_new_tokens, chunk)


def answer_options(request: Request, prompts: "Prompts") -> "AnswerOptions":
    """The part of a request that decides how questions are asked and answered."""
    from lmi_cli.tasks.asking import AnswerOptions

    method, source = method_choice(request), memory_choice(request).answer_from
    return AnswerOptions(
        prompts,
        method,
        source,
        request.max_new_tokens,
        sampling_of(request),
        rank=request.rank,
        contrast=request.contrast,
        speculate=request.speculate,
        show_prompt=request.show_prompt,
        passages=request.passages,
        passage_order=request.passage_order,
        measure=request.segment_score,
    )


def placement_of(request: Request) -> "Placement":
    """The devices and the precision of the weights."""
    from lmi_cli.models.placement import Placement

    return Placement(
        dtype=request.dtype,
        device=request.device,
        device_map=request.device_map,
        max_memory=None if request.max_memory is None else _max_memory(request.max_memory),
        offload_folder=request.offload_folder,
        quantize=request.quantize,
        threads=request.threads,
    )


def _max_memory(text: str) -> dict[int | str, str]:
    limits: dict[int | str, str] = {}
    for part in text.split(","):
        device, equals, limit = part.strip().partition("=")
        if not (device and equals and limit):
            raise UsageError(f"--max-memory {text!r}: expected DEVICE=SIZE[,...], as in 0=6GiB")
        limits[int(device) if device.isdigit() else device] = limit
    return limits


def read_options(request: Request) -> "ReadOptions":
    """How sources are chosen and read."""
    from lmi_cli.sources import ReadOptions

    size, password = request.max_file_size, None
    if size is not None and size < 0:
        raise UsageError(f"--max-file-size {size}: the smallest is 0")
    if request.password_file is not None:
        lines = lines_of(request.password_file, "password file")
        if not lines:
            raise UsageError(f"password file {request.password_file} is empty")
        password = lines[0]
    return ReadOptions(
        include=tuple(request.include or ()),
        exclude=tuple(request.exclude or ()),
        gitignore=not request.no_gitignore,
        include_secrets=request.include_secrets,
        max_file_size=ReadOptions().max_file_size if size is None else size,
        password=password,
    )


def lines_of(path: Path, kind: str) -> list[str]:
    """The lines of a small text file; an error message calls it ``kind``."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UsageError(f"{kind} {path}: {reason}") from error
