"""The kind of a file, decided by its first bytes; its name only breaks ties.

Imports only the standard library.
"""

import codecs
import re

from lmi_cli.sources import reasons, secret_files
from lmi_cli.sources.reasons import UnreadableError

# Longest first: the UTF-32 mark begins with the UTF-16 one.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
UNSUPPORTED = (
    (b"\x1f\x8b", "gzip archive"),
    (b"BZh", "bzip2 archive"),
    (b"\xfd7zXZ\0", "xz archive"),
    (b"\x28\xb5\x2f\xfd", "zstandard archive"),
    (b"7z\xbc\xaf\x27\x1c", "7-zip archive"),
    (b"Rar!\x1a\x07", "rar archive"),
    (b"\x89PNG\r\n", "PNG image"),
    (b"\xff\xd8\xff", "JPEG image"),
    (b"GIF8", "GIF image"),
    (b"II*\0", "TIFF image"),
    (b"MM\0*", "TIFF image"),
    (b"RIFF", "RIFF media"),
    (b"OggS", "Ogg media"),
    (b"ID3", "MP3 audio"),
    (b"\x7fELF", "program"),
    (b"MZ\x90\0", "program"),
    (b"\xcf\xfa\xed\xfe", "program"),
    (b"\xca\xfe\xba\xbe", "program"),
    (b"SQLite format 3\0", "SQLite database"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Office document"),
    (b"{\\rtf", "RTF document"),
    (b"%!PS", "PostScript document"),
)
# Plain text may begin with a magic number: files of any other kind also contain binary bytes.
WRITTEN = ("RTF document", "PostScript document")
NOT_WRITTEN = re.compile(rb"[\0-\x08\x0e-\x1a\x7f-\xff]")
HTML_START = re.compile(
    rb"(?>\s+|<!--.*?-->|<\?xml[^>]*>)*+<(?:!doctype\s+html|html[\s>])", re.I | re.S
)
MINIFIED_LINE_BYTES = 1000
PDF_HEADER = re.compile(rb"^%PDF-\d", re.M)
SUFFIXES = {
    ".pdf": "pdf",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".ipynb": "notebook",
    ".epub": "epub",
    ".docx": "docx",
}


def byte_order_mark(head: bytes) -> tuple[bytes, str] | None:
    """The byte order mark at the start of ``head`` and the encoding that it stands for."""
    return next((pair for pair in BYTE_ORDER_MARKS if head.startswith(pair[0])), None)


def kind_of(head: bytes, name: str) -> str:
    """Return the kind of reader that a file needs.

    Args:
        head: The first bytes of the file, up to 8 KiB.
        name: The file's name; decides only between kinds that the content allows.

    Returns:
        ``text``, ``pdf``, ``html``, ``notebook`` or ``zip``.

    Raises:
        UnreadableError: The content is of a kind that is not supported.
    """
    suffix = suffix_of(name)
    if _is_pdf(head, suffix):
        return "pdf"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    for magic, what in UNSUPPORTED:
        if head.startswith(magic) and (what in WRITTEN or NOT_WRITTEN.search(head)):
            raise UnreadableError(f"unsupported: {what}")
    if head[8:].startswith(b'{"__metadata__":{'):
        raise UnreadableError("unsupported: safetensors file (weights, or a state file of lmi)")
    mark = byte_order_mark(head)
    if (mark is None or mark[1] == "utf-8") and (nul := head.find(0)) >= 0:
        raise UnreadableError(f"unsupported: binary data (NUL at byte {nul:,})")
    start = head[len(mark[0]) if mark else 0 :]
    # Under another name, markup is a template or a program, to be read as it is.
    if (suffix in ("", ".txt") and HTML_START.match(start)) or (
        SUFFIXES.get(suffix) == "html" and start.lstrip().startswith(b"<")
    ):
        return "html"
    if start.lstrip().startswith(b"{") and (suffix == ".ipynb" or b'"cell_type"' in start):
        return "notebook"
    return "text"


def unwelcome(head: bytes, name: str, *, include_secrets: bool = False) -> str | None:
    """The reason to leave out a file that the user did not name, by its content; None to read it.

    Args:
        head: The first bytes of the file.
        name: The file's name.
        include_secrets: As in :class:`~lmi_cli.sources.options.ReadOptions`.
    """
    if not include_secrets and (kind := secret_files.by_content(head, name)):
        return reasons.secret(kind)
    long_lines = len(head) > MINIFIED_LINE_BYTES * (1 + head.count(b"\n"))
    if long_lines and suffix_of(name) in (".js", ".mjs", ".cjs", ".css"):
        return reasons.MINIFIED
    if suffix_of(name) == ".svg" and b"<svg" in head:
        return reasons.DRAWING
    return None


def suffix_of(name: str) -> str:
    """The lower-case suffix of a file name, with its dot."""
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def misnamed(kind: str, name: str) -> str | None:
    """A remark for the report if the name suggests another kind than the content; else None."""
    suffix = suffix_of(name)
    promised = SUFFIXES.get(suffix)
    if promised is None and suffix not in (".txt", ".md", ".py", ".csv", ".json", ".rst", ".tex"):
        return None
    if kind == (promised or "text") or {kind, promised} == {"text", "html"}:
        return None
    return f"named {suffix} but holds {kind}: read as {kind}"


def _is_pdf(head: bytes, suffix: str) -> bool:
    # A text may quote a PDF header, and a real PDF may have bytes of junk before it.
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"%PDF-"):
        return True
    found = PDF_HEADER.search(head[:1024]) is not None
    return found and (suffix == ".pdf" or b" obj" in head)
