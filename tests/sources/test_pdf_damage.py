"""PDF files that are damaged or hostile cost the pages concerned and little memory."""

import contextlib
import io
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pypdf
import pytest

from lmi_cli.errors import LmiError, NoInputError
from lmi_cli.sources import open_corpus

from .bombs import BOMBS, book_with, deflated
from .documents import assemble, make_pdf, quick, read_all, stream, write


def peak_kib():
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


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
@pytest.mark.parametrize("seed", range(4))
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


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_hostile_page_costs_its_worker_and_that_page(tmp_path, workers, bomb):
    path = write(tmp_path, book_with(BOMBS[bomb]()))
    before = peak_kib()
    result = read_all(path, options=quick(page_seconds=3, memory_bytes=512 << 20))
    assert len(workers) <= 2  # each of which has its seconds
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


def test_huge_to_unicode(tmp_path, workers):
    cmap = b"beginbfrange\n" + b"<0000> <ffff> <0000>\n" * 100_000 + b"endbfrange"
    font = (
        b"<< /Type /Font /Subtype /Type0 /BaseFont /A /Encoding /Identity-H /ToUnicode 13 0 R "
        b"/DescendantFonts [ << /Type /Font /Subtype /CIDFontType2 /BaseFont /A >> ] >>"
    )
    path = write(tmp_path, book_with({3: font, 11: stream(b""), 13: deflated(cmap)}))
    with contextlib.suppress(NoInputError):
        read_all(path, options=quick(page_seconds=2))
    assert len(workers) <= 3  # each of which has its seconds: one for each page


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
