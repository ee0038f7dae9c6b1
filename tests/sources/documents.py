"""Documents that the tests build for themselves, and a way to read them whole."""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmi_cli.sources import Block, Corpus, ReadOptions, open_corpus
from lmi_cli.sources.options import PdfLimits


@dataclass
class Result:
    """A corpus read to its end."""

    corpus: Corpus
    blocks: list[Block]

    @property
    def text(self) -> str:
        return "".join(block.text for block in self.blocks)

    @property
    def bodies(self) -> list[str]:
        """The text of each source, headers not included."""
        parts = [""] * len(self.corpus.sources)
        for block in self.blocks:
            if not block.header:
                parts[block.source] += block.text
        return parts

    @property
    def issues(self) -> list[str]:
        return [issue for source in self.corpus.sources for issue in source.issues]

    @property
    def skipped(self) -> dict[str, str]:
        return {skip.origin: skip.reason for skip in self.corpus.skipped}


def read_all(
    *paths: object, options: ReadOptions | None = None, stdin: bytes | None = None
) -> Result:
    stream = io.BytesIO(stdin) if stdin is not None else None
    corpus = open_corpus([str(path) for path in paths], options or ReadOptions(), stdin=stream)
    return Result(corpus, list(corpus.blocks))


def escaped(text: str) -> bytes:
    data = text.encode("cp1252")
    for char in (b"\\", b"(", b")"):
        data = data.replace(char, b"\\" + char)
    return data


def text_content(lines: Sequence[str]) -> bytes:
    """A content stream that shows lines from the top of the page down."""
    shown = b"".join(b"(" + escaped(line) + b") Tj T*\n" for line in lines)
    return b"BT /F1 11 Tf 14 TL 72 740 Td\n" + shown + b"ET\n"


def assemble(objects: dict[int, bytes], root: int = 1, extra: bytes = b"") -> bytes:
    """A PDF file with a right cross-reference table."""
    out = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
    places = {}
    for number, body in objects.items():
        places[number] = len(out)
        out += b"%d 0 obj\n" % number + body + b"\nendobj\n"
    start = len(out)
    size = max(objects) + 1
    out += b"xref\n0 %d\n0000000000 65535 f \n" % size
    for number in range(1, size):
        out += b"%010d 00000 %s \n" % (places.get(number, 0), b"n" if number in places else b"f")
    out += b"trailer\n<< /Size %d /Root %d 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (
        size,
        root,
        extra,
        start,
    )
    return bytes(out)


def stream(data: bytes, entries: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n" % (len(data), entries) + data + b"\nendstream"


IMAGE = stream(
    b"\x00",
    b"/Type /XObject /Subtype /Image /Width 1 /Height 1 "
    b"/BitsPerComponent 8 /ColorSpace /DeviceGray",
)


def make_pdf(
    pages: Sequence[Sequence[str] | bytes | None], *, labels: bytes | None = None
) -> bytes:
    """A PDF: a page is its lines, a raw content stream, or None for a scanned one."""
    objects: dict[int, bytes] = {
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        4: IMAGE,
    }
    kids = []
    for index, page in enumerate(pages):
        number = 10 + 2 * index
        kids.append(b"%d 0 R" % number)
        if page is None:
            content, resources = b"q 600 0 0 800 0 0 cm /Im0 Do Q", b"/XObject << /Im0 4 0 R >>"
        else:
            content = page if isinstance(page, bytes) else text_content(page)
            resources = b"/Font << /F1 3 0 R >>"
        objects[number] = (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << %s >> "
            b"/Contents %d 0 R >>" % (resources, number + 1)
        )
        objects[number + 1] = stream(content)
    tail = b"/PageLabels << /Nums [ %s ] >>" % labels if labels else b""
    objects[1] = b"<< /Type /Catalog /Pages 2 0 R %s >>" % tail
    objects[2] = b"<< /Type /Pages /Count %d /Kids [ %s ] >>" % (len(pages), b" ".join(kids))
    return assemble(objects)


def make_zip(members: dict[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            stored = zipfile.ZIP_STORED if name == "mimetype" else None
            archive.writestr(name, data, compress_type=stored)
    return buffer.getvalue()


def write(folder: Path, data: bytes, name: str = "a.pdf") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def quick(**limits: float) -> ReadOptions:
    """Options that leave little time to each page of a PDF."""
    return ReadOptions(pdf=PdfLimits(**({"page_seconds": 1.5, "patience": 1.0} | limits)))
