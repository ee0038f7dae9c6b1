"""Whatever the worker for PDF does, its reader goes on, and the worker never outlives it."""

import pytest

from lmi_cli.errors import NoInputError
from lmi_cli.sources import open_corpus, pdf

from .documents import make_pdf, quick, read_all, write

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


def test_a_page_does_not_wait_for_the_next(stub, tmp_path):
    asked = tmp_path / "asked"
    path = stub(f"while not os.path.exists({str(asked)!r}): time.sleep(0.01)")
    blocks = iter(open_corpus([str(path)]).blocks)
    assert next(blocks).text == "page 1\n"
    asked.touch()
    assert [block.text for block in blocks] == ["page 2\n", "page 3\n", "page 4\n"]


def test_closing_the_stream_ends_the_worker(tmp_path, workers):
    path = write(tmp_path, make_pdf([[f"Page {n}"] for n in range(200)]))
    blocks = iter(open_corpus([str(path)]).blocks)
    next(blocks)
    blocks.close()
    assert [worker._process.poll() for worker in workers] == [-9]
    assert not workers[0]._thread.is_alive()


@pytest.mark.parametrize(
    ("misbehave", "reason"),
    [
        ("time.sleep(60)", "took longer than 1 s"),
        ("while True: pass", "took longer than 1 s"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crashed with signal 11"),
        ("os._exit(3)", "failed"),
        ("sys.exit(0)", "gave an invalid answer"),
        ("send(b'not json')", "gave an invalid answer"),
        ("send(b'[' * 100_000)", "gave an invalid answer"),
        ("send([1])", "gave an invalid answer"),
        ("send({'page': 99, 'text': 'x'})", "gave an invalid answer"),
        ("sys.stdout.buffer.write(b'\\xff' * 100)", "gave an invalid answer"),
        ("sys.stdout.buffer.write(b'\\0\\0'); os._exit(1)", "failed"),
        ("send(b' ' * 20_000_000)", "gave an invalid answer"),
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
