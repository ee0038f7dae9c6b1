"""EPUB books and DOCX documents: text from zipped markup. Imports only the standard library.

The sizes that an archive claims are not trusted: every member is read in pieces and counted. A
document type declaration, which could hold an entity bomb, is refused.
"""

import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import IO, Any
from urllib.parse import unquote
from xml.parsers import expat

from lmi_cli.sources.blocks import Piece, Source
from lmi_cli.sources.encoding import decoded
from lmi_cli.sources.html import main_text
from lmi_cli.sources.input import CHUNK_BYTES, Input
from lmi_cli.sources.reasons import UnreadableError
from lmi_cli.sources.text import blocks

EXPANDED_BYTES = 128 * 1024 * 1024
DIRECTORY_BYTES = 16 * 1024 * 1024
PACKAGE_BYTES = 8 * 1024 * 1024
# What zipfile, zlib and expat are known to raise for damaged files.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    expat.ExpatError,
    struct.error,
    EOFError,
    LookupError,
    NotImplementedError,
    ValueError,
)
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main "
FALLBACK = "http://schemas.openxmlformats.org/markup-compatibility/2006 Fallback"
DOCX_BODY = "word/document.xml"


def read(data: Input, source: Source) -> tuple[str, Iterator[Piece]]:
    """Read a zip archive as EPUB or DOCX, whichever it is.

    Returns:
        The kind, ``epub`` or ``docx``, and its pieces.
    """
    kind = "epub" if b"mimetypeapplication/epub+zip" in data.head else "docx"
    return kind, _read(data, source)


def _read(data: Input, source: Source) -> Iterator[Piece]:
    with data.seekable() as (stream, _):
        try:
            _check_directory(stream)
            with zipfile.ZipFile(stream) as archive:
                container = _Container(archive)
                if DOCX_BODY in container:
                    texts = _docx(container)
                elif "META-INF/container.xml" in container:
                    texts = _epub(container, source)
                else:
                    raise UnreadableError("unsupported: zip archive")
                for text in blocks(texts):
                    yield Piece(text)
        except DAMAGE as error:
            raise UnreadableError(f"damaged {source.kind}: {error}") from error
        except RuntimeError as error:  # zipfile raises it for a password
            raise UnreadableError(f"cannot be read: {error}") from error


def _check_directory(stream: IO[bytes]) -> None:
    """Refuse an archive whose list of members alone would fill the memory."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - 65557))
    tail = stream.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        raise zipfile.BadZipFile("incomplete zip archive")
    if struct.unpack_from("<I", tail, end + 12)[0] > DIRECTORY_BYTES:
        raise UnreadableError("unsupported: zip archive with too many members")
    stream.seek(0)


class _Container:
    """An archive from which at most ``EXPANDED_BYTES`` are read in total."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._names = set(archive.namelist())
        self._left = EXPANDED_BYTES

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a member.

        Raises:
            UnreadableError: The archive expands to more than ``EXPANDED_BYTES``.
        """
        with self._archive.open(name) as member:
            while chunk := member.read(CHUNK_BYTES):
                self._left -= len(chunk)
                if self._left < 0:
                    raise UnreadableError(
                        f"too large when expanded (over {EXPANDED_BYTES:,} bytes)"
                    )
                yield chunk

    def small(self, name: str) -> bytes:
        """A member that should be small, read whole."""
        data = b""
        for chunk in self.chunks(name):
            data += chunk
            if len(data) > PACKAGE_BYTES:
                raise UnreadableError(f"too large when expanded: {name}")
        return data


def _parser(
    start: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None] | None = None,
    text: Callable[[str], None] | None = None,
) -> Any:
    parser = expat.ParserCreate(namespace_separator=" ")

    def refuse(*_: object) -> None:
        raise UnreadableError("refused: document type declaration in XML")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    return parser


def _docx(container: _Container) -> Iterator[str]:
    for name in (DOCX_BODY, "word/footnotes.xml", "word/endnotes.xml"):
        if name in container:
            yield from _docx_part(container, name)


def _docx_part(container: _Container, name: str) -> Iterator[str]:
    out: list[str] = []
    inside = {"text": 0, "fallback": 0}

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == FALLBACK:
            inside["fallback"] += 1
        match tag.removeprefix(WORD):
            case "t":
                inside["text"] += 1
            case "tab":
                out.append("\t")
            case "br" | "cr":
                out.append("\n")
            case "noBreakHyphen":
                out.append("-")
            case "pStyle":
                style = attributes.get(f"{WORD}val", "")
                level = style.lower().removeprefix("heading")
                if level != style.lower() and level.isdigit():
                    out.append("#" * min(int(level), 6) + " ")

    def end(tag: str) -> None:
        if tag == FALLBACK:
            inside["fallback"] -= 1
        match tag.removeprefix(WORD):
            case "t":
                inside["text"] -= 1
            case "p":
                out.append("\n")
            case "tc":
                # A cell ends with its last paragraph; in a row, tabs separate the cells.
                if out and out[-1] == "\n":
                    out[-1] = "\t"
            case "tr" if out and out[-1] == "\t":
                out[-1] = "\n"

    def text(value: str) -> None:
        if inside["text"] and not inside["fallback"]:
            out.append(value)

    parser = _parser(start, end, text)
    for chunk in container.chunks(name):
        parser.Parse(chunk, False)
        if len(out) > 256:
            # The last part may still be turned from a line end into a tab.
            yield "".join(out[:-1])
            del out[:-1]
    parser.Parse(b"", True)
    yield "".join(out)


def _epub(container: _Container, source: Source) -> Iterator[str]:
    missing = 0
    for name in _spine(container):
        if name in container:
            yield from main_text(decoded(container.chunks(name), source))
            yield "\n"
        else:
            missing += 1
    if missing:
        source.issues.append(f"damaged EPUB: chapters missing: {missing}")


def _spine(container: _Container) -> list[str]:
    """The names of the chapters in reading order."""
    packages: list[str] = []

    def rootfile(tag: str, attributes: dict[str, str]) -> None:
        if tag.endswith(" rootfile"):
            packages.append(attributes.get("full-path", ""))

    _parser(rootfile).Parse(container.small("META-INF/container.xml"), True)
    if not packages or packages[0] not in container:
        raise UnreadableError("damaged epub: no package document")
    folder = PurePosixPath(packages[0]).parent
    manifest: dict[str, str] = {}
    order: list[str] = []

    def item(tag: str, attributes: dict[str, str]) -> None:
        if tag.endswith(" item") and "html" in attributes.get("media-type", "html"):
            manifest[attributes.get("id", "")] = attributes.get("href", "")
        elif tag.endswith(" itemref"):
            order.append(attributes.get("idref", ""))

    _parser(item).Parse(container.small(packages[0]), True)
    return [_inside(folder, manifest[name]) for name in order if name in manifest]


def _inside(folder: PurePosixPath, link: str) -> str:
    parts: list[str] = []
    for part in (folder / unquote(link.partition("#")[0])).parts:
        if part == ".." and parts:
            parts.pop()
        elif part not in (".", ".."):
            parts.append(part)
    return "/".join(parts)
