"""Hostile pages of PDF files, each made only when it is asked for."""

import zlib
from collections.abc import Callable

from .documents import assemble, stream, text_content


def deflated(data: bytes, times: int = 1) -> bytes:
    """A stream of a PDF file, compressed so many times."""
    for _ in range(times):
        data = zlib.compress(data, 9)
    names = b" ".join([b"/FlateDecode"] * times)
    return stream(data, b"/Filter [ %s ]" % names)


def book_with(objects: dict[int, bytes], content: int = 11) -> bytes:
    """Page 1 is fine, page 2 has the content given, page 3 is fine."""
    base = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Count 3 /Kids [ 4 0 R 5 0 R 6 0 R ] >>",
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        7: stream(text_content(["Good page"])),
    }
    for page, body in ((4, 7), (5, content), (6, 7)):
        base[page] = (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> /XObject << /X 12 0 R >> >> >>" % body
        )
    return assemble(base | objects)


def forms(count: int) -> dict[int, bytes]:
    """Forms that each show the next one ten times."""
    found = {}
    for number in range(12, 12 + count):
        found[number] = stream(
            b"/X Do " * 10,
            b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] "
            b"/Resources << /XObject << /X %d 0 R >> >>" % (number + 1),
        )
    found[12 + count] = stream(
        text_content(["deep"]), b"/Type /XObject /Subtype /Form /BBox [0 0 9 9]"
    )
    return found


BOMBS: dict[str, Callable[[], dict[int, bytes]]] = {
    "a gigabyte in a page": lambda: {11: deflated(bytes(1_000_000_000))},
    "nested filters": lambda: {11: deflated(b"x" * 1000, 16)},
    "endless operators": lambda: {11: deflated(b"BT (x) Tj ET\n" * 5_000_000)},
    "endless operands": lambda: {11: deflated(b"[ " * 3_000_000)},
    "deep nesting": lambda: {11: stream(b"[" * 100_000 + b"]" * 100_000)},
    "deep dictionaries": lambda: {11: stream(b"<</a " * 100_000 + b"Tj")},
    "a million forms": lambda: {11: stream(b"/X Do"), **forms(6)},
    "a form in itself": lambda: {
        11: stream(b"/X Do"),
        12: stream(
            b"/X Do /X Do",
            b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] "
            b"/Resources << /XObject << /X 12 0 R >> >>",
        ),
    },
}
