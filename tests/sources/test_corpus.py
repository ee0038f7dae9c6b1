"""The stream as a whole: order, headers, provenance, messages, and what it may import."""

import io
import random
import subprocess
import sys
from pathlib import Path

import pytest

from lmi_cli.errors import NoInputError, UsageError
from lmi_cli.sources import open_corpus
from lmi_cli.sources.corpus import LISTED_SKIPS

from .documents import make_pdf, read_all


def test_missing_path_is_a_usage_error_at_once(tmp_path):
    with pytest.raises(UsageError, match=r"no such file or folder: .*nothing") as caught:
        open_corpus([str(tmp_path / "nothing")])
    assert caught.value.exit_code == 2


def test_a_name_that_cannot_be_is_a_usage_error():
    for name in ("x" * 5000, "nul\0", "\udcff"):
        with pytest.raises(UsageError) as caught:
            open_corpus([name])
        caught.value.message.encode()


def test_broken_link_is_a_usage_error(tmp_path):
    (tmp_path / "link").symlink_to("nothing")
    with pytest.raises(UsageError, match="broken symbolic link"):
        open_corpus([str(tmp_path / "link")])


def test_standard_input_twice():
    with pytest.raises(UsageError, match="more than once"):
        open_corpus(["-", "-"])


def test_closed_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(NoInputError, match="<stdin>: standard input is closed"):
        read_all("-")


def test_nothing_named():
    with pytest.raises(UsageError, match="no source"):
        open_corpus([])


def test_patterns_that_the_shell_did_not_expand(tmp_path):
    for name in ("b.txt", "a.txt", "c.md", "d/e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n")
    assert read_all(tmp_path / "*.txt").bodies == ["a.txt\n", "b.txt\n"]
    assert read_all(tmp_path / "**/*.txt").bodies == ["a.txt\n", "b.txt\n", "d/e.txt\n"]
    with pytest.raises(UsageError, match="no file matches"):
        read_all(tmp_path / "*.rst")


def test_a_name_with_brackets_is_a_name(tmp_path):
    (tmp_path / "a[1].txt").write_text("x\n")
    assert read_all(tmp_path / "a[1].txt").text == "x\n"


def test_one_document_has_no_header(tmp_path):
    (tmp_path / "a").write_text("text")
    assert read_all(tmp_path / "a").text == "text"
    assert read_all("-", stdin=b"text").text == "text"


def test_headers_name_each_document(tmp_path):
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two\n")
    (tmp_path / "c").write_bytes(b"\0")
    a, b, c = (tmp_path / name for name in "abc")
    result = read_all(a, b, c, "-", stdin=b"three\n")
    assert result.text == f"==> {a} <==\none\n\n==> {b} <==\ntwo\n\n==> <stdin> <==\nthree\n"
    assert [(x.source, x.char_start, x.header) for x in result.blocks] == [
        (0, 0, True),
        (0, 0, False),
        (1, 0, True),
        (1, 0, False),
        (2, 0, True),
        (2, 0, False),
    ]
    assert result.corpus.sources[2].chars == 6


def test_a_name_cannot_pass_for_a_header(tmp_path):
    (tmp_path / "x <==\nevil\n==> y").write_text("text\n")
    header = read_all(tmp_path).blocks[0]
    assert header.text.count("\n") == 1
    assert "\\nevil\\n" in header.text


def test_offsets_name_the_place_of_their_text(tmp_path):
    rng = random.Random(3)
    words = ["word", "Grüße", "😀", "日本", "x" * 90, "\n", "\n\n", "\r\n", "\f", "\t"]
    pages = [[f"Page {n} line {m} {rng.random()}" for m in range(40)] for n in range(25)]
    (tmp_path / "a.txt").write_bytes(" ".join(rng.choices(words, k=60_000)).encode())
    (tmp_path / "b.pdf").write_bytes(make_pdf(pages, labels=b"0 << /S /r >> 4 << /S /D >>"))
    (tmp_path / "c.txt").write_bytes(("y" * 70_000 + "\n" + "z" * 70_000).encode())
    result = read_all(tmp_path)
    for index, body in enumerate(result.bodies):
        blocks = [block for block in result.blocks if block.source == index and not block.header]
        assert result.corpus.sources[index].chars == len(body)
        starts = [block.char_start for block in blocks]
        assert starts == sorted(starts)
        lines = body.split("\n")
        for offset in rng.sample(range(len(body)), 200):
            block = next(b for b in reversed(blocks) if b.char_start <= offset)
            inside = offset - block.char_start
            assert block.text[inside] == body[offset]
            if block.page is None:
                line = block.line + block.text.count("\n", 0, inside)
                column = inside - (block.text.rfind("\n", 0, inside) + 1)
                assert block.text[inside:].split("\n")[0] in lines[line - 1]
                assert column <= len(lines[line - 1])
            else:
                place = body[offset:].split("\n")[0]
                page = next(n for n, ls in enumerate(pages, 1) if any(place in x for x in ls))
                assert block.page == page or len(place) < 8
                labels = ["i", "ii", "iii", "iv", *map(str, range(1, 99))]
                assert block.label == labels[block.page - 1]


def test_no_input_names_each_kind(tmp_path):
    (tmp_path / "a").write_bytes(b"\0")
    (tmp_path / "b").touch()
    paths = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(NoInputError, match=r"skipped: 1 unsupported: binary data, 1 empty"):
        read_all(*paths)


def test_no_text_is_raised_only_at_the_end():
    stream = iter(open_corpus(["-"], stdin=io.BytesIO(b"\n" * 100_000)).blocks)
    with pytest.raises(NoInputError):
        list(stream)


def test_every_input_is_read_or_listed(tmp_path):
    rng = random.Random(5)
    names = set()
    for number in range(200):
        name = (
            rng.choice(["", ".", "a.min.", ""]) + f"{number}" + rng.choice([".txt", ".js", ".pdf"])
        )
        content = rng.choice([b"", b"text", b"\0", b"%PDF-1.4", b"PK\3\4", b"\xff\xfe", b"  "])
        (tmp_path / name).write_bytes(content)
        names.add(str(tmp_path / name))
    result = read_all(tmp_path)
    read = {source.origin for source in result.corpus.sources}
    assert read | {*result.skipped} == names
    assert not read & {*result.skipped}
    assert len(names) < LISTED_SKIPS


def test_files_are_closed(tmp_path):
    for number in range(50):
        (tmp_path / f"{number}").write_text("x\n")
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    blocks = iter(open_corpus([str(tmp_path)]).blocks)
    for _ in range(20):
        next(blocks)
    blocks.close()
    after = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    assert after == before


def test_imports_stay_light():
    program = """
import sys
before = {*sys.modules}
import lmi_cli.sources
new = {name.partition(".")[0] for name in {*sys.modules} - before}
foreign = {name for name in new if name not in sys.stdlib_module_names}
inside = {name for name in sys.modules if name.startswith("lmi_cli.")}
light = ("lmi_cli.sources", "lmi_cli.errors", "lmi_cli.native")
inside = {name for name in inside if not name.startswith(light)} | ({"torch"} & {*sys.modules})
print(sorted(foreign), sorted(inside))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['lmi_cli', 'pathspec', 'typing_extensions'] []"


@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1"])
def test_the_locale_does_not_matter(tmp_path, locale):
    (tmp_path / "é.txt").write_text("Grüße 日本\n", encoding="utf-8")
    program = (
        "import sys; from lmi_cli.sources import open_corpus\n"
        "c = open_corpus(sys.argv[1:]); t = ''.join(b.text for b in c.blocks)\n"
        "print(ascii(t), ascii(c.sources[0].origin))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(tmp_path)],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": locale, "PYTHONIOENCODING": "ascii"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Gr\\xfc\\xdfe \\u65e5\\u672c" in done.stdout
    assert "\\xe9.txt" in done.stdout
    assert done.stderr == ""


def test_the_share_grows_to_the_whole(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("The grass is green.\n" * 5_000)
    corpus = open_corpus([str(tmp_path)])
    shares = [corpus.share for _ in corpus.blocks]
    assert shares == sorted(shares, key=float) and 0.0 < min(shares[1:]) < 0.5
    assert corpus.share == 1.0


def test_the_share_of_a_pipe_is_not_known() -> None:
    corpus = open_corpus(["-"], stdin=io.BytesIO(b"The grass is green.\n"))
    assert [corpus.share for _ in corpus.blocks] == [None]
