"""PDF: pages, labels, and files that are locked, scanned, damaged or hostile (F17-F22, F58)."""

import contextlib
import io
import os
import random
import subprocess
import sys
import textwrap
import time
import zlib
from pathlib import Path

import pypdf
import pytest

from lmi_cli.errors import LmiError, NoInputError
from lmi_cli.sources import ReadOptions, open_corpus, pdf
from lmi_cli.sources.options import PdfLimits

from .documents import assemble, make_pdf, read_all, stream, text_content


def write(tmp_path, data, name="a.pdf"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def encrypted(data, algorithm, user="secret"):
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(data))
    writer.encrypt(user, "owner", algorithm=algorithm)
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def quick(**limits):
    return ReadOptions(pdf=PdfLimits(**({"page_seconds": 1.5, "patience": 1.0} | limits)))


def peak_kib():
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


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


def test_first_page_comes_quickly(tmp_path, book):
    path = write(tmp_path, book)
    next(iter(open_corpus([str(path)]).blocks))  # warms the disk cache
    start = time.monotonic()
    next(iter(open_corpus([str(path)]).blocks))
    assert time.monotonic() - start < 2.0


def test_closing_the_stream_ends_the_worker(tmp_path, monkeypatch):
    path = write(tmp_path, make_pdf([[f"Page {n}"] for n in range(200)]))
    workers = []
    enter = pdf.Worker.__enter__
    monkeypatch.setattr(
        pdf.Worker, "__enter__", lambda self: (workers.append(self), enter(self))[1]
    )
    blocks = iter(open_corpus([str(path)]).blocks)
    next(blocks)
    blocks.close()
    assert [worker._process.poll() for worker in workers] == [-9]
    assert not workers[0]._thread.is_alive()


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
    assert "secret" not in repr(ReadOptions(password="secret"))


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


@pytest.mark.parametrize("tenth", range(1, 10))
def test_truncated(tmp_path, tenth):
    data = make_pdf([[f"Page {n}"] * 20 for n in range(30)])
    path = write(tmp_path, data[: len(data) * tenth // 10])
    try:
        result = read_all(path)
    except NoInputError as error:
        assert "damaged PDF" in error.message
    else:
        assert result.issues


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_random_damage_gives_good_pages_or_our_errors(tmp_path, seed):
    pages = [[f"Page {n} of the book", "with some text."] for n in range(8)]
    buffer = io.BytesIO()
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(make_pdf(pages)))
    for page in writer.pages:
        page.compress_content_streams()
    writer.write(buffer)
    data = buffer.getvalue()
    rng = random.Random(seed)
    paths = []
    for number in range(52):
        damaged = bytearray(data)
        if number < 2:
            del damaged[rng.randrange(len(data)) :]
        else:
            for _ in range(rng.choice([1, 1, 4, 32])):
                damaged[rng.randrange(len(data))] = rng.randrange(256)
        paths.append(write(tmp_path, bytes(damaged), f"{number}.pdf"))
    corpus = open_corpus([str(path) for path in paths], quick(open_seconds=10))
    try:
        for block in corpus.blocks:
            block.text.encode()
    except LmiError:
        pass
    known = {source.origin for source in corpus.sources} | {s.origin for s in corpus.skipped}
    assert known == {str(path) for path in paths}


def deflated(data, times=1):
    for _ in range(times):
        data = zlib.compress(data, 9)
    names = b" ".join([b"/FlateDecode"] * times)
    return stream(data, b"/Filter [ %s ]" % names)


def book_with(objects, content=11):
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


def forms(count):
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


BOMBS = {
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


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_hostile_page_costs_seconds_and_that_page(tmp_path, bomb):
    path = write(tmp_path, book_with(BOMBS[bomb]()))
    before, start = peak_kib(), time.monotonic()
    result = read_all(path, options=quick(page_seconds=3, memory_bytes=512 << 20))
    assert time.monotonic() - start < 20
    assert peak_kib() - before < 100_000
    pages = [block.page for block in result.blocks]
    assert pages[0] == 1
    assert pages[-1] == 3
    assert result.issues


def test_cyclic_page_tree(tmp_path):
    data = assemble(
        {
            1: b"<< /Type /Catalog /Pages 2 0 R >>",
            2: b"<< /Type /Pages /Count 1 /Kids [ 3 0 R ] >>",
            3: b"<< /Type /Pages /Count 1 /Kids [ 2 0 R ] >>",
        }
    )
    with pytest.raises(NoInputError):
        read_all(write(tmp_path, data), options=quick(open_seconds=5))


def test_huge_to_unicode(tmp_path):
    cmap = b"beginbfrange\n" + b"<0000> <ffff> <0000>\n" * 100_000 + b"endbfrange"
    font = (
        b"<< /Type /Font /Subtype /Type0 /BaseFont /A /Encoding /Identity-H /ToUnicode 13 0 R "
        b"/DescendantFonts [ << /Type /Font /Subtype /CIDFontType2 /BaseFont /A >> ] >>"
    )
    path = write(tmp_path, book_with({3: font, 11: stream(b""), 13: deflated(cmap)}))
    start = time.monotonic()
    with contextlib.suppress(NoInputError):
        read_all(path, options=quick(page_seconds=2))
    assert time.monotonic() - start < 20


# The worker is replaced by one that misbehaves at a page; the parent must not care why.
STUB = """
import json, os, signal, struct, sys, time
request = json.loads(sys.stdin.buffer.readline())
def send(message):
    frame = message if isinstance(message, bytes) else json.dumps(message).encode()
    sys.stdout.buffer.write(struct.pack(">I", len(frame)) + frame)
    sys.stdout.buffer.flush()
send({"pages": PAGES})
for page in range(request["first_page"], PAGES + 1):
    if page in BAD:
        MISBEHAVE
    send({"page": page, "text": f"page {page}", "label": None})
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    def install(misbehave, bad=(2,), pages=4):
        code = STUB.replace("PAGES", str(pages)).replace("BAD", str(bad))
        path = tmp_path / "stub.py"
        path.write_text(code.replace("MISBEHAVE", misbehave))
        monkeypatch.setattr(pdf, "WORKER", path)
        return write(tmp_path, make_pdf([]))

    return install


@pytest.mark.parametrize(
    ("misbehave", "reason"),
    [
        ("time.sleep(60)", "took longer than 1 s"),
        ("while True: pass", "took longer than 1 s"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "stopped by signal 11"),
        ("os._exit(3)", "failed"),
        ("sys.exit(0)", "answered nonsense"),
        ("send(b'not json')", "answered nonsense"),
        ("send(b'[' * 100_000)", "answered nonsense"),
        ("send([1])", "answered nonsense"),
        ("send({'page': 99, 'text': 'x'})", "answered nonsense"),
        ("sys.stdout.buffer.write(b'\\xff' * 100)", "answered nonsense"),
        ("sys.stdout.buffer.write(b'\\0\\0'); os._exit(1)", "failed"),
        ("send(b' ' * 20_000_000)", "answered nonsense"),
    ],
)
def test_whatever_a_worker_does_costs_one_page(stub, misbehave, reason):
    result = read_all(stub(misbehave), options=quick(page_seconds=1))
    assert result.text == "page 1\npage 3\npage 4\n"
    assert result.issues == [f"not read: page 2: {reason}"]


def test_a_worker_that_sends_text_of_another_type(stub):
    result = read_all(stub("send({'page': page, 'text': 7, 'label': {}}); continue"))
    assert result.text == "page 1\npage 3\npage 4\n"


def test_lone_surrogates_from_the_worker(stub):
    result = read_all(stub("send({'page': page, 'text': 'a\\ud800b'}); continue"))
    assert "a\ufffdb\n" in result.text


def test_too_many_bad_pages_are_given_up(stub):
    path = stub("os._exit(1)", bad=tuple(range(2, 100)), pages=99)
    result = read_all(path, options=quick(failed_pages=3))
    assert result.text == "page 1\n"
    assert result.issues == [
        "given up after 3 pages that stopped the reader: pages 5-99 were not read",
        "not read: pages 2-4: failed",
    ]


def test_nothing_but_bad_pages(stub):
    path = stub("os._exit(1)", bad=tuple(range(1, 10)), pages=9)
    with pytest.raises(NoInputError, match=r"damaged PDF: 3/9 pages failed \(failed\)"):
        read_all(path, options=quick(failed_pages=3))


def test_page_limit(tmp_path):
    path = write(tmp_path, make_pdf([["one"], ["two"], ["three"]]))
    result = read_all(path, options=quick(pages=2))
    assert result.text == "one\ntwo\n"
    assert result.issues == ["only the first 2 of 3 pages were read"]


def test_huge_page_is_cut_and_noted(tmp_path):
    path = write(tmp_path, make_pdf([["word " * 10] * 100, ["next"]]))
    result = read_all(path, options=quick(page_chars=1000))
    assert result.issues == ["only the first 1,000 characters were read of page 1"]
    assert result.text.endswith("next\n")


def test_no_output_of_the_worker_reaches_the_terminal(tmp_path, capfd):
    result = read_all(write(tmp_path, make_pdf([["one"]]).replace(b"\n10 0 obj", b"\n 10 0 obj")))
    assert result.text == "one\n"
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(os.name == "nt", reason="address space cannot be limited there")
def test_worker_is_within_its_memory(tmp_path):
    path = write(tmp_path, book_with({11: deflated(b"(" + b"x" * 60_000_000 + b") Tj")}))
    script = textwrap.dedent(
        """
        import resource, sys
        from lmi_cli.sources import ReadOptions, open_corpus
        from lmi_cli.sources.options import PdfLimits
        options = ReadOptions(pdf=PdfLimits(memory_bytes=300 << 20))
        corpus = open_corpus([sys.argv[1]], options)
        print(len([1 for _ in corpus.blocks]), corpus.sources[0].issues)
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[-1]) < 350_000
