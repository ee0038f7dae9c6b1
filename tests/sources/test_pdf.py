"""PDF: pages, labels, passwords, missing text layers and limits."""

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pypdf
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.t2CharStringPen import T2CharStringPen

from lmi_cli.errors import NoInputError
from lmi_cli.sources import ReadOptions

from .documents import assemble, make_pdf, quick, read_all, stream, write


def encrypted(data, algorithm, user="secret"):
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(data))
    writer.encrypt(user, "owner", algorithm=algorithm)
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def test_pages_and_labels(tmp_path, book):
    result = read_all(write(tmp_path, book))
    assert [(b.page, b.label, b.text, b.char_start) for b in result.blocks] == [
        (1, "i", "Title page\n", 0),
        (2, "1", "First chapter\nIt begins.\n", 11),
        (3, "2", "It ends.\n", 36),
    ]
    (source,) = result.corpus.sources
    assert (source.kind, source.pages, source.chars, source.lines) == ("pdf", 3, 45, None)
    assert source.size_bytes == len(book)
    assert source.issues == []


def test_pdf_on_standard_input(book):
    result = read_all("-", stdin=book)
    assert "It begins." in result.text
    assert result.corpus.sources[0].size_bytes == len(book)


def test_no_library_of_pdf_in_this_process():
    program = "import sys, lmi_cli.sources; sys.exit(bool({'pypdf', 'torch'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("algorithm", ["RC4-40", "RC4-128", "AES-128", "AES-256"])
class TestEncrypted:
    def test_without_password(self, tmp_path, book, algorithm):
        with pytest.raises(NoInputError, match="encrypted: use --password-file"):
            read_all(write(tmp_path, encrypted(book, algorithm)))

    def test_with_password(self, tmp_path, book, algorithm):
        path = write(tmp_path, encrypted(book, algorithm))
        result = read_all(path, options=ReadOptions(password="secret"))
        assert "It ends." in result.text

    def test_with_wrong_password(self, tmp_path, book, algorithm):
        with pytest.raises(NoInputError, match="encrypted: wrong password"):
            read_all(write(tmp_path, encrypted(book, algorithm)), options=ReadOptions(password="x"))

    def test_open_to_readers(self, tmp_path, book, algorithm):
        assert "It ends." in read_all(write(tmp_path, encrypted(book, algorithm, user=""))).text


def test_missing_library_for_decryption_is_named(tmp_path, book, monkeypatch):
    path = write(tmp_path, encrypted(book, "AES-256"))
    for name in ("cryptography", "Crypto"):
        (tmp_path / "lib" / name).mkdir(parents=True)
        (tmp_path / "lib" / name / "__init__.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    with pytest.raises(NoInputError, match=r"encrypted: cannot be decrypted here: .*cryptography"):
        read_all(path, options=ReadOptions(password="secret"))


def test_password_does_not_show(tmp_path):
    assert "hunter2" not in repr(ReadOptions(password="hunter2"))


def test_scanned(tmp_path):
    path = write(tmp_path, make_pdf([None, None]))
    with pytest.raises(NoInputError, match=r"no text layer on 2/2 pages \(OCR needed\)"):
        read_all(path)


def test_partly_scanned(tmp_path):
    path = write(tmp_path, make_pdf([["one"], None, ["three"], None, None, [], ["seven"]]))
    result = read_all(path)
    assert [block.page for block in result.blocks] == [1, 3, 7]
    assert result.issues == ["no text layer on 3/7 pages (OCR needed): 2, 4-5"]


def test_blank_pages_are_no_issue(tmp_path):
    result = read_all(write(tmp_path, make_pdf([["one"], [], b"0 0 m 9 9 l S", ["two"]])))
    assert result.text == "one\ntwo\n"
    assert result.issues == []


def test_without_pages(tmp_path):
    with pytest.raises(NoInputError, match="no text on 0 pages"):
        read_all(write(tmp_path, make_pdf([])))


def test_page_limit(tmp_path):
    path = write(tmp_path, make_pdf([["one"], ["two"], ["three"]]))
    result = read_all(path, options=quick(pages=2))
    assert result.text == "one\ntwo\n"
    assert result.issues == ["only the first 2 of 3 pages were read"]


def test_huge_page_is_cut_and_noted(tmp_path):
    path = write(tmp_path, make_pdf([["word " * 10] * 100, ["next"]]))
    result = read_all(path, options=quick(page_chars=1000))
    assert result.issues == ["only the first 1,000 characters of page 1 were read"]
    assert result.text.endswith("next\n")


def test_no_output_of_the_worker_reaches_the_terminal(tmp_path, capfd):
    result = read_all(write(tmp_path, make_pdf([["one"]]).replace(b"\n10 0 obj", b"\n 10 0 obj")))
    assert result.text == "one\n"
    assert capfd.readouterr() == ("", "")


def latin_modern() -> bytes:
    """A font in CFF form with the codes of TeX, which stand in the font and nowhere else."""
    codes = {"ff": 0x0B, "fi": 0x0C, "A": 65, "c": 99, "e": 101, "n": 110, "o": 111, "t": 116}
    codes |= {"emdash": 0x7C}
    glyphs = [".notdef", *codes]
    builder = FontBuilder(1000, isTTF=False)
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap({})
    outlines = {}
    for name in glyphs:
        pen = T2CharStringPen(500, None)
        pen.moveTo((0, 0))
        pen.lineTo((400, 700))
        pen.closePath()
        outlines[name] = pen.getCharString()
    builder.setupCFF("LMRoman10-Regular", {}, outlines, {})
    fonts = builder.font["CFF "].cff
    encoding = [".notdef"] * 256
    for name, code in codes.items():
        encoding[code] = name
    fonts.topDictIndex[0].Encoding = encoding
    data = io.BytesIO()
    fonts.compile(data, SimpleNamespace(recalcBBoxes=False, getGlyphOrder=lambda: glyphs))
    return data.getvalue()


def test_a_paper_set_in_latin_modern(tmp_path: Path) -> None:
    """Without fontTools its ligatures and dashes would be control characters and bars."""
    widths = b" ".join([b"500"] * 114)
    content = b"BT /F1 11 Tf 72 700 Td (A\x0cn e\x0bect|note) Tj ET"
    data = assemble(
        {
            1: b"<< /Type /Catalog /Pages 2 0 R >>",
            2: b"<< /Type /Pages /Count 1 /Kids [10 0 R] >>",
            3: b"<< /Type /Font /Subtype /Type1 /BaseFont /ABCDEF+LMRoman10-Regular /FirstChar 11"
            b" /LastChar 124 /Widths [%s] /FontDescriptor 5 0 R >>" % widths,
            5: b"<< /Type /FontDescriptor /FontName /ABCDEF+LMRoman10-Regular /Flags 4 /FontBBox"
            b" [0 0 500 700] /ItalicAngle 0 /Ascent 700 /Descent 0 /CapHeight 700 /StemV 80"
            b" /FontFile3 6 0 R >>",
            6: stream(latin_modern(), b"/Subtype /Type1C"),
            10: b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 11 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>",
            11: stream(content),
        }
    )
    result = read_all(write(tmp_path, data))
    assert result.text.strip() == "Afin effect\u2014note"
    assert not result.issues


class TestOutline:
    def outlined(self, data: bytes, *titles: tuple[str, int]) -> bytes:
        writer = pypdf.PdfWriter(clone_from=io.BytesIO(data))
        parent = None
        for title, page in titles:
            item = writer.add_outline_item(title=title, page_number=page, parent=parent)
            parent = parent or item
        buffer = io.BytesIO()
        writer.write(buffer)
        return buffer.getvalue()

    def test_titles_and_pages_in_order(self, tmp_path, book):
        data = self.outlined(book, ("First\n chapter", 1), ("Its end", 2), ("", 0))
        (source,) = read_all(write(tmp_path, data)).corpus.sources
        assert [(mark.title, mark.page) for mark in source.outline] == [
            ("First chapter", 2), ("Its end", 3),
        ]  # fmt: skip

    def test_a_file_without_one(self, tmp_path, book):
        (source,) = read_all(write(tmp_path, book)).corpus.sources
        assert source.outline == []

    @pytest.mark.parametrize(
        "outline",
        [b"<< /First 4 0 R /Last 4 0 R >>", b"42", b"99 0 R", b"<< /First 1 0 R /Last 1 0 R >>"],
    )
    def test_a_damaged_one_costs_nothing(self, tmp_path, book, outline):
        damaged = book.replace(b"/Type /Catalog", b"/Type /Catalog /Outlines " + outline)
        assert damaged != book
        whole = read_all(write(tmp_path, book))
        result = read_all(write(tmp_path, damaged))
        assert result.text == whole.text
        assert result.corpus.sources[0].outline == []
