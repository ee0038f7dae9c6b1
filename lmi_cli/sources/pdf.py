"""The pages of a PDF, read by a worker process that may hang, crash or lie.

Imports only the standard library; pypdf is imported in the worker.
"""

import json
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

from lmi_cli.sources.blocks import Bookmark, Piece, Source
from lmi_cli.sources.input import Input
from lmi_cli.sources.options import PdfLimits, ReadOptions
from lmi_cli.sources.page_text import PageText
from lmi_cli.sources.reasons import UnreadableError

WORKER = Path(__file__).with_name("pdf_worker.py")
FRAME_BYTES = 16 * 1024 * 1024
FRAMES_AHEAD = 4
_OUT_OF_TIME = getattr(signal, "SIGXCPU", 0)


class WorkerError(Exception):
    """The worker died, hung or broke the protocol; the message says which."""


class Worker:
    """A running worker process; a context manager that always kills and reaps it.

    Args:
        request: The request; see ``pdf_worker``.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        self._frames: queue.Queue[bytes | None] = queue.Queue(FRAMES_AHEAD)
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        # -P: the folder of the script holds an html.py, which must not shadow the library's.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._process.kill()
        self._process.wait()
        self._thread.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def message(self, seconds: float, patience: float) -> dict[str, Any] | None:
        """The next message, or None if the worker has ended normally.

        Args:
            seconds: Processor time that it may take; the worker limits itself to that.
            patience: Wall-clock time to wait, as a multiple of that.

        Raises:
            WorkerError: No message came in time, or the worker died or broke the protocol.
        """
        try:
            frame = self._frames.get(timeout=patience * seconds)
        except queue.Empty:
            raise WorkerError(f"took longer than {patience * seconds:g} s") from None
        if frame is None:
            code = self._process.wait()
            if code == 0:
                return None
            if code == -_OUT_OF_TIME:
                raise WorkerError(f"took more than {seconds:g} s of processor time")
            raise WorkerError(f"crashed with signal {-code}" if code < 0 else "failed")
        try:
            message = json.loads(frame)
        except (ValueError, RecursionError):
            raise WorkerError("gave an invalid answer") from None
        if not isinstance(message, dict):
            raise WorkerError("gave an invalid answer")
        return message

    def _pump(self) -> None:
        """Move frames from the pipe to the queue, so that waiting for one can have a deadline."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            return
        try:
            stdin.write(json.dumps(self._request).encode() + b"\n")
            stdin.flush()
            while frame := _frame(stdout):
                self._put(frame)
        except (OSError, ValueError):
            pass
        self._put(None)

    def _put(self, frame: bytes | None) -> None:
        while not self._stopped.is_set():
            try:
                self._frames.put(frame, timeout=0.1)
                return
            except queue.Full:
                continue


def _frame(stream: IO[bytes]) -> bytes | None:
    prefix = stream.read(4)
    if len(prefix) < 4:
        return None
    (length,) = struct.unpack(">I", prefix)
    # Our worker never sends a frame of this size, so this breaks the protocol.
    if length > FRAME_BYTES:
        return b"?"
    frame = stream.read(length)
    return frame if len(frame) == length else None


def read(data: Input, source: Source, options: ReadOptions) -> Iterator[Piece]:
    """Read a PDF page by page; a page that cannot be read is noted and left out.

    Raises:
        UnreadableError: No page gives any text, as the file is encrypted, damaged or scanned.
    """
    with data.seekable() as (_, path):
        pages = _Pages(source, options.pdf)
        request = {
            "path": str(path),
            "password": options.password,
            "memory_bytes": options.pdf.memory_bytes,
            "open_seconds": options.pdf.open_seconds,
            "page_seconds": options.pdf.page_seconds,
            "page_chars": options.pdf.page_chars,
            "last_page": options.pdf.pages,
        }
        while not pages.done:
            with Worker(request | {"first_page": pages.next}) as worker:
                yield from pages.read_from(worker)
        pages.finish()


class _Pages:
    """The state of one document across the workers that read it."""

    def __init__(self, source: Source, limits: PdfLimits) -> None:
        self.done = False
        self.next = 1
        self._source = source
        self._limits = limits
        self._cleaner = PageText()
        self._with_text = 0
        self._scanned: list[int] = []
        self._failed: dict[int, str] = {}
        self._deaths = 0
        self._cut: list[int] = []
        self._warned: dict[int, str] = {}

    def read_from(self, worker: Worker) -> Iterator[Piece]:
        """Yield pages until the worker ends; sets ``next`` and ``done``."""
        self._open(worker)
        last = min(self._source.pages or 0, self._limits.pages)
        while self.next <= last:
            number = self.next
            try:
                message = worker.message(self._limits.page_seconds, self._limits.patience)
                if message is None or message.get("page") != number:
                    raise WorkerError("gave an invalid answer")
            except WorkerError as error:
                self._failed[number] = str(error)
                self._deaths += 1
                self.next += 1
                if self._deaths >= self._limits.failed_pages and self.next <= last:
                    self._source.issues.append(
                        f"given up after {self._deaths} pages that stopped the reader: "
                        f"pages {ranges(range(self.next, last + 1))} were not read"
                    )
                    break
                if self.next <= last:
                    return
                break
            self.next += 1
            if piece := self._piece(number, message):
                yield piece
        else:
            self._outline(worker)
        self.done = True

    def _outline(self, worker: Worker) -> None:
        """Take the outline, which is no loss where it is missing."""
        try:
            message = worker.message(self._limits.page_seconds, self._limits.patience)
        except WorkerError:
            return
        entries = (message or {}).get("outline")
        for entry in entries if isinstance(entries, list) else ():
            match entry:
                case [str(title), int(page)] if 1 <= page <= (self._source.pages or 0):
                    self._source.outline.append(Bookmark(text_of(title), page))

    def _open(self, worker: Worker) -> None:
        try:
            message = worker.message(self._limits.open_seconds, self._limits.patience)
        except WorkerError as error:
            raise UnreadableError(f"damaged PDF: opening it {error}") from error
        if message is None or not isinstance(count := message.get("pages"), int):
            refused = (message or {}).get("refused")
            raise UnreadableError(text_of(refused) or "damaged PDF")
        if self._source.pages is None:
            self._source.pages = count
            if warning := text_of(message.get("warning")):
                self._source.issues.append(f"damaged PDF, read as far as possible: {warning}")

    def _piece(self, number: int, message: dict[str, Any]) -> Piece | None:
        if "error" in message:
            self._failed[number] = text_of(message["error"]) or "unknown error"
            return None
        if warning := text_of(message.get("warning")):
            self._warned[number] = warning
        label = text_of(message.get("label")) or None
        text = text_of(message.get("text"))[: self._limits.page_chars]
        if message.get("cut"):
            self._cut.append(number)
        if not text.strip():
            if message.get("scanned"):
                self._scanned.append(number)
            return None
        self._with_text += 1
        text = self._cleaner.clean(text, number, label)
        return Piece(text, page=number, label=label) if text else None

    def finish(self) -> None:
        """Add what went wrong to the issues of the source.

        Raises:
            UnreadableError: There was no text at all.
        """
        total = self._source.pages or 0
        if not self._with_text:
            if self._failed:
                first = next(iter(self._failed.values()))
                raise UnreadableError(
                    f"damaged PDF: {len(self._failed)}/{total} pages failed ({first})"
                )
            raise UnreadableError(
                f"no text layer on {len(self._scanned)}/{total} pages (OCR needed)"
                if self._scanned
                else f"no text on {total} pages"
            )
        issues = self._source.issues
        if self._scanned:
            issues.append(
                f"no text layer on {len(self._scanned)}/{total} pages (OCR needed): "
                f"{ranges(self._scanned)}"
            )
        for reason in dict.fromkeys(self._failed.values()):
            pages = [page for page, why in self._failed.items() if why == reason]
            issues.append(f"not read: {plural(pages)} {ranges(pages)}: {reason}")
        if self._cut:
            issues.append(
                f"only the first {self._limits.page_chars:,} characters of "
                f"{plural(self._cut)} {ranges(self._cut)} were read"
            )
        if total > self._limits.pages:
            issues.append(f"only the first {self._limits.pages:,} of {total:,} pages were read")
        if self._warned:
            page, warning = next(iter(self._warned.items()))
            others = len(self._warned) - 1
            also = f" ({others} more pages with such warnings)" if others else ""
            issues.append(f"page {page} may be incomplete: {warning}{also}")


def plural(pages: list[int]) -> str:
    """``page`` or ``pages``, depending on their number."""
    return "page" if len(pages) == 1 else "pages"


def ranges(pages: range | list[int]) -> str:
    """Page numbers in short form: ``2, 5-7``."""
    spans: list[list[int]] = []
    if isinstance(pages, range):
        spans = [[pages[0], pages[-1]]]
    else:
        for page in pages:
            if spans and spans[-1][1] == page - 1:
                spans[-1][1] = page
            else:
                spans.append([page, page])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def text_of(value: object) -> str:
    """A string from the worker without lone surrogates, or an empty one for anything else."""
    if not isinstance(value, str):
        return ""
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
