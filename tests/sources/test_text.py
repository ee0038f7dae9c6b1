"""Plain text: encodings, boundaries, binary data, white space (F01, F02, F05-F10, F13)."""

import codecs
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmi_cli.errors import NoInputError
from lmi_cli.sources import input as input_module
from lmi_cli.sources import open_corpus
from lmi_cli.sources.blocks import BLOCK_CHARS
from lmi_cli.sources.encoding import TextDecoder, extends_ascii
from lmi_cli.sources.input import CHUNK_BYTES
from lmi_cli.sources.text import blocks

from .documents import read_all


@pytest.mark.parametrize(
    "data", [b"", b" ", b"\n" * 1_000_000, b"\r\n\t\f" * 1000, b"\xef\xbb\xbf"]
)
def test_nothing_but_white_space_is_no_input(data):
    with pytest.raises(NoInputError, match="no text in <stdin>") as caught:
        read_all("-", stdin=data)
    assert caught.value.exit_code == 3


def test_empty_file_is_named(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(NoInputError, match=r"no text in .*a\.txt"):
        read_all(tmp_path / "a.txt")


def test_empty_file_in_a_set_is_listed(tmp_path):
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.txt").write_text("text\n")
    result = read_all(tmp_path / "a.txt", tmp_path / "b.txt")
    assert result.bodies == ["text\n"]
    assert result.skipped == {str(tmp_path / "a.txt"): "empty"}


def test_leading_white_space_is_kept(tmp_path):
    (tmp_path / "a").write_text("\n" * 100_000 + "text")
    result = read_all(tmp_path / "a")
    assert result.text == "\n" * 100_000 + "text"
    assert result.corpus.sources[0].lines == 100_001


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_byte_order_marks(mark, encoding):
    text = "Grüße, 日本 😀\n" * 20_000
    result = read_all("-", stdin=mark + text.encode(encoding))
    assert result.text == text
    assert result.issues == []


def test_invalid_utf8_is_replaced_and_counted():
    result = read_all("-", stdin="Grüße ".encode() + b"\xff\x80 end \xed\xa0\x80 \xef\xbf\xbd")
    assert result.text == "Grüße \ufffd\ufffd end \ufffd\ufffd\ufffd \ufffd"
    assert result.issues == ["5 undecodable characters replaced by U+FFFD"]


def test_truncated_utf16_is_replaced():
    result = read_all("-", stdin=b"\xff\xfe\x80")
    assert result.text == "\ufffd"
    assert result.issues == ["1 undecodable characters replaced by U+FFFD"]


@pytest.mark.parametrize("before", [0, 5000, 200_000])
def test_latin1_is_detected_wherever_it_starts(before):
    text = "x" * before + "Él niño está aquí – “café” l’été.\n"  # noqa: RUF001
    result = read_all("-", stdin=text.encode("cp1252"))
    assert result.text == text
    assert result.issues == ["not UTF-8: read as cp1252, guessed from its bytes"]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1251", "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 20),
        ("shift_jis", "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。" * 20),
        ("cp1250", "Zażółć gęślą jaźń. Wczoraj poszedłem do sklepu po świeże bułki. " * 20),
    ],
)
def test_other_encodings_are_detected(encoding, text):
    assert read_all("-", stdin=text.encode(encoding)).text == text


def test_every_offset_of_a_character_at_a_read_boundary():
    for offset in range(1, 5):
        text = "a" * (CHUNK_BYTES - offset) + "😀é\r\n" * 10
        result = read_all("-", stdin=text.encode())
        assert result.text == text
        assert result.issues == []


@given(st.text(), st.lists(st.integers(1, 7), min_size=1), st.booleans())
def test_decoding_in_pieces_equals_decoding_at_once(text, sizes, marked):
    data = (codecs.BOM_UTF8 if marked else b"") + text.encode()
    decoder, out, place, turn = TextDecoder(), "", 0, 0
    while place < len(data):
        size = sizes[turn % len(sizes)]
        out += decoder.decode(data[place : place + size])
        place, turn = place + size, turn + 1
    out += decoder.decode(b"", final=True)
    assert out == data.decode("utf-8-sig")
    assert decoder.replaced == 0


@given(st.binary(), st.lists(st.integers(1, 9), min_size=1))
def test_any_bytes_decode_without_error(data, sizes):
    decoder, place, turn = TextDecoder(), 0, 0
    while place < len(data):
        size = sizes[turn % len(sizes)]
        decoder.decode(data[place : place + size]).encode()
        place, turn = place + size, turn + 1
    decoder.decode(b"", final=True).encode()


@given(st.lists(st.text(st.sampled_from("a\n\r\u0301\u200d😀"), max_size=50), max_size=40))
def test_blocks_keep_the_text(texts):
    texts = [text * 900 for text in texts]
    cut = list(blocks(texts))
    assert "".join(cut) == "".join(texts)
    assert all(0 < len(block) <= BLOCK_CHARS for block in cut)


def test_long_lines_are_not_cut_inside_a_cluster():
    text = "e\u0301" * 40_000 + "\r\n" * 40_000
    cut = [block.text for block in read_all("-", stdin=text.encode()).blocks]
    assert "".join(cut) == text
    assert not any(block.startswith(("\u0301", "\n")) for block in cut)


def test_control_characters_are_kept():
    text = "one\rtwo\r\nthree\x85four\ffive\x1b[2Jsix\x07\n"
    result = read_all("-", stdin=text.encode())
    assert result.text == text
    assert result.corpus.sources[0].lines == 2


def test_lines_and_offsets_are_those_of_the_text():
    text = "".join(f"line {number}\n" for number in range(1, 30_000))
    result = read_all("-", stdin=text.encode())
    lines = text.split("\n")
    assert len(result.blocks) > 5
    for block in result.blocks:
        assert text[block.char_start :].startswith(block.text)
        assert lines[block.line - 1] == block.text.split("\n")[0]
    assert result.corpus.sources[0].lines == 29_999
    assert result.corpus.sources[0].chars == len(text)


def test_early_nul_means_binary(tmp_path):
    (tmp_path / "a.py").write_bytes(b"x" * 3000 + b"\0" + b"x" * 1000)
    with pytest.raises(NoInputError, match=r"unsupported: binary data \(NUL at byte 3,000\)"):
        read_all(tmp_path / "a.py")


def test_late_nul_ends_the_text():
    result = read_all("-", stdin=b"x" * 9_000_000 + b"\0" + b"y" * 10)
    assert result.text == "x" * 9_000_000
    assert result.issues == ["binary data from character 9,000,000 on (NUL): the rest was not read"]


def test_file_that_grows_is_read_up_to_its_size_at_the_start(tmp_path):
    path = tmp_path / "log"
    path.write_text("x" * 100_000 + "\n")
    corpus = open_corpus([str(path)])
    stream = iter(corpus.blocks)
    total = len(next(stream).text)
    with path.open("a") as log:
        log.write("more\n" * 100_000)
    total += sum(len(block.text) for block in stream)
    assert total == 100_001
    assert corpus.sources[0].issues == [
        "grew while it was read: only its first 100,001 bytes were used"
    ]


def test_file_that_shrinks_is_noted(tmp_path):
    path = tmp_path / "log"
    path.write_text("x" * 1_000_000)
    corpus = open_corpus([str(path)])
    stream = iter(corpus.blocks)
    next(stream)
    os.truncate(path, 10)
    list(stream)
    assert corpus.sources[0].issues == ["shrank while it was read: from 1,000,000 to 10 bytes"]


def test_file_that_vanishes_before_its_turn_is_skipped(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    corpus = open_corpus([str(tmp_path / name) for name in ("a", "b", "c")])
    stream = iter(corpus.blocks)
    next(stream)
    (tmp_path / "b").unlink()
    text = "".join(block.text for block in stream if not block.header)
    assert text == "ac"
    assert [skip.reason for skip in corpus.skipped] == ["cannot be read: no such file or directory"]


def test_error_in_the_middle_is_noted():
    class Failing(io.BytesIO):
        def read(self, count=-1):
            if self.tell() >= 200_000:
                raise OSError(5, "Input/output error")
            return super().read(count)

    corpus = open_corpus(["-"], stdin=Failing(b"x\n" * 200_000))
    assert sum(len(block.text) for block in corpus.blocks) > 100_000
    assert corpus.sources[0].issues == ["the rest was not read: cannot be read: input/output error"]


def test_encodings_that_a_document_may_name():
    assert extends_ascii("koi8-r")
    assert not extends_ascii("cp037")
    assert not extends_ascii("utf-16")
    assert not extends_ascii("no-such-encoding")


def test_a_pipe_too_large_to_be_copied(monkeypatch, book):
    monkeypatch.setattr(input_module, "SPOOL_LIMIT_BYTES", 100)
    with pytest.raises(NoInputError, match="too large to be read from a pipe"):
        read_all("-", stdin=book)


def test_a_file_that_was_rewritten_in_place_is_noted(tmp_path):
    path = tmp_path / "a"
    path.write_text("x\n" * 100_000)
    corpus = open_corpus([str(path)])
    blocks = iter(corpus.blocks)
    next(blocks)
    os.utime(path, (1, 1))
    list(blocks)
    assert corpus.sources[0].issues == ["changed while it was read"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures resident memory through /proc")
def test_a_line_without_end_is_read_in_constant_memory(tmp_path):
    program = """
import sys
from lmi_cli.sources import open_corpus
class Line:
    left = 300_000_000
    def read(self, count=-1):
        count = min(count, self.left)
        self.left -= count
        return b"x" * count
chars = sum(len(block.text) for block in open_corpus(["-"], stdin=Line()).blocks)
peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))
print(chars, peak.split()[1])
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    chars, kib = map(int, done.stdout.split())
    assert chars == 300_000_000
    assert kib < 100_000
