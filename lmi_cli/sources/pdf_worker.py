"""Read one PDF with pypdf, in a process of its own, and write its pages to standard output.

Run as a script: it imports the standard library and pypdf, nothing of this package. It may be
killed at any time, and limits its own memory and time, because its parent may be killed too.

Protocol: one JSON object on standard input (the request), then frames on standard output, each a
four-byte big-endian length and a JSON object. The first frame is ``{"pages": n}`` or
``{"refused": reason}``; then one frame for each page, in order: ``page`` (one-based), ``label``,
and ``text`` or ``error``; without text, ``scanned`` says whether the page shows anything else. The
last frame is ``{"outline": [[title, page], ...]}``.
"""

import json
import logging
import math
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

CAN_LIMIT = sys.platform != "win32"
if CAN_LIMIT:
    import resource

PAGES_BETWEEN_CLEARING = 100
MOST_BOOKMARKS = 5_000


class Warnings(logging.Handler):
    """Keeps the first warning of pypdf since the last :meth:`take`."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._first: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message, unless one is kept already."""
        if self._first is None:
            self._first = one_line(record.getMessage())

    def take(self) -> str | None:
        """Return the kept warning and forget it."""
        first, self._first = self._first, None
        return first


def limit(memory_bytes: int) -> None:
    """Limit address space, and forbid files and core dumps, where the system can."""
    if not CAN_LIMIT:
        return
    for kind, amount in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (amount, amount))


def limit_cpu(seconds: float) -> None:
    """Allow this much processor time from now on: a worker whose parent died must end too."""
    if not CAN_LIMIT:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    allowed = math.ceil(usage.ru_utime + usage.ru_stime + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (allowed, resource.RLIM_INFINITY))


def send(out: BinaryIO, message: dict[str, Any]) -> None:
    """Write one frame."""
    frame = json.dumps(message, separators=(",", ":")).encode("ascii")
    out.write(struct.pack(">I", len(frame)) + frame)
    out.flush()


def one_line(error: object) -> str:
    """A short form of an error for the report."""
    text = " ".join(str(error).split())[:200]
    return text if not isinstance(error, BaseException) or text else type(error).__name__


def open_reader(request: dict[str, Any], stream: BinaryIO) -> Any:
    """Open and decrypt the file.

    Raises:
        PermissionError: The file is encrypted; the message says what to do.
    """
    from pypdf import PdfReader
    from pypdf._configuration import overwrite_configuration
    from pypdf.errors import DependencyError

    overwrite_configuration(
        jbig2dec_binary=None,
        disable_legacy_handling=True,
        stream_filters_maximum_length=4,
        xform_maximum_invocations_per_extraction=1000,
    )
    try:
        reader = PdfReader(stream, strict=False)
        if reader.is_encrypted and not reader.decrypt(request["password"] or ""):
            wrong = "wrong password" if request["password"] else "use --password-file"
            raise PermissionError(f"encrypted: {wrong}")
    except DependencyError as error:
        raise PermissionError(f"encrypted: cannot be decrypted here: {one_line(error)}") from error
    return reader


def page_labels(reader: Any) -> list[str]:
    """The printed page labels; empty where the file has none or damaged ones."""
    try:
        labels = reader.page_labels if "/PageLabels" in reader.root_object else []
    except Exception:
        return []
    return [str(label)[:32] for label in labels]


def outline(reader: Any) -> list[tuple[str, int]]:
    """Titles and one-based pages of the outline; empty where there is none or a damaged one."""
    found: list[tuple[str, int]] = []
    try:
        waiting = list(reversed(reader.outline))
        while waiting and len(found) < MOST_BOOKMARKS:
            item = waiting.pop()
            if isinstance(item, list):
                waiting += reversed(item)
                continue
            page = reader.get_destination_page_number(item)
            if page is not None and page >= 0 and (title := one_line(item.title or "")):
                found.append((title, page + 1))
    except Exception:
        return []
    return found


def is_scanned(page: Any) -> bool:
    """Whether a page without text is more than blank: it has an image or much drawing on it."""
    try:
        objects = page["/Resources"].get("/XObject", {}).get_object()
        if any(item.get_object().get("/Subtype") == "/Image" for item in objects.values()):
            return True
    except (KeyError, AttributeError, TypeError):
        pass
    contents = page.get_contents()
    return contents is not None and len(contents.get_data()) > 1000


def main() -> None:
    """Answer the request on standard input."""
    request = json.loads(sys.stdin.buffer.readline())
    limit(request["memory_bytes"])
    limit_cpu(request["open_seconds"])
    out = sys.stdout.buffer
    warnings = Warnings()
    logging.getLogger("pypdf").addHandler(warnings)
    logging.getLogger("pypdf").propagate = False
    with Path(request["path"]).open("rb") as stream:
        try:
            reader = open_reader(request, stream)
            count = len(reader.pages)
            labels = page_labels(reader)
        except PermissionError as error:
            send(out, {"refused": str(error)})
            return
        except Exception as error:
            send(out, {"refused": f"damaged PDF: {one_line(error)}"})
            return
        send(out, {"pages": count, "warning": warnings.take()})
        for number in range(request["first_page"], min(count, request["last_page"]) + 1):
            limit_cpu(request["page_seconds"])
            message: dict[str, Any] = {"page": number}
            if number <= len(labels):
                message["label"] = labels[number - 1]
            try:
                page = reader.pages[number - 1]
                text = page.extract_text()
                message["cut"] = len(text) > request["page_chars"]
                message["text"] = text[: request["page_chars"]]
                if not text.strip():
                    message["scanned"] = is_scanned(page)
            except MemoryError:
                message["error"] = "takes more memory than a page may use"
            except Exception as error:
                message["error"] = one_line(error)
            if number % PAGES_BETWEEN_CLEARING == 0:
                # pypdf keeps every object it reads: after thousands of pages, most of the file.
                reader.resolved_objects.clear()
            message["warning"] = warnings.take()
            send(out, message)
        limit_cpu(request["page_seconds"])
        send(out, {"outline": outline(reader)})


if __name__ == "__main__":
    main()
