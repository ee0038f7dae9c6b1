"""Inputs that are wrong, through the whole program: exit code and message (F01-F24, F30, F57, F58).

``lmi inspect`` reads and tokenises like every command, and needs no weights. How each reader deals
with a fault in detail is tested in ``tests/sources``.
"""

import gzip
import io
import json
import os
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import Popen

import pypdf
import pytest
from sources.bombs import BOMBS, book_with
from sources.documents import make_pdf, make_zip

from lmi_cli.sources import PdfLimits, ReadOptions

Files = dict[str, bytes]
TEXT = b"The grass is green.\n"
KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\nx\n"
PNG = b"\x89PNG\r\n\x1a\n\x00" * 300
PAGES = make_pdf([["The sky is blue.", "It is blue indeed."]] * 3)


def _expanding() -> bytes:
    """A Word document whose text expands to 256 MiB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        with archive.open("word/document.xml", "w") as member:
            for part in (b"<w:document>", *[b" " * 2**20] * 256, b"</w:document>"):
                member.write(part)
    return buffer.getvalue()


def _encrypted() -> bytes:
    writer = pypdf.PdfWriter(io.BytesIO(PAGES))
    writer.encrypt("secret", "owner", algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[Files], Path]:
    def fill(files: Files) -> Path:
        root = tmp_path / "in"
        root.mkdir()
        for name, data in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        return root

    return fill


@pytest.mark.parametrize(
    ("fault", "data", "code", "said"),
    [
        ("F01", b"", 3, "no text in <stdin>"),
        ("F02", b"\n" * 2**20, 3, "no text in <stdin>"),
        ("F05", PNG, 3, "<stdin>: "),
        ("F24", gzip.compress(TEXT, mtime=0), 3, "unsupported"),
        ("F23", PAGES, 0, ""),
        ("F06", b"caf\xe9 " * 9 + TEXT, 0, "not UTF-8: read as cp1252"),
    ],
)
def test_on_standard_input(
    lmi: Callable[..., object], model: str, fault: str, data: bytes, code: int, said: str
) -> None:
    result = lmi("inspect", "-", "-m", model, stdin=data)
    assert (result.code, said in result.err) == (code, True), result.err


@pytest.mark.parametrize(
    ("fault", "data", "code", "strict", "said"),
    [
        ("F01", b"", 3, 3, "no text in {path}"),
        ("F05-early", b"x" * 3000 + b"\0" + b"x" * 1000, 3, 3, "{path}: unsupported: binary data"),
        ("F05-late", TEXT * 2**12 + b"\0" + TEXT, 0, 6, "NUL"),
        ("F06-lone", b"\xff\xfe\x80" + TEXT, 0, 6, "{path}: "),
        ("F06-utf8", TEXT * 900 + b"\xff" + TEXT, 0, 6, "{path}: "),
        ("F10", b"a\rb\r\nc\xc2\x85\x0c\x1b[31m\x07d\n", 0, 0, ""),
        ("F17", _encrypted(), 3, 3, "encrypted: use --password-file"),
        ("F18", make_pdf([None, None]), 3, 3, "no text layer on 2/2 pages (OCR needed)"),
        (
            "F18-mixed",
            make_pdf([["Text."], None]),
            0,
            6,
            "on 1/2 pages (OCR needed): 2",
        ),
        ("F19-garbage", b"%PDF-1.7\n" + b"\x01\x02" * 3000, 3, 3, "damaged PDF"),
        ("F19-cut", PAGES[: len(PAGES) // 2], None, None, "damaged PDF"),
        ("F24-lying", _expanding(), 3, 3, "{path}: "),
        ("F24-zip", make_zip({"a.txt": TEXT}), 3, 3, "unsupported"),
        ("F24-gz", gzip.compress(TEXT, mtime=0), 3, 3, "unsupported"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("F") else "",
)
def test_in_a_file(
    lmi: Callable[..., object],
    model: str,
    tmp_path: Path,
    fault: str,
    data: bytes,
    code: int | None,
    strict: int | None,
    said: str,
) -> None:
    path = tmp_path / "document"
    path.write_bytes(data)
    result = lmi("inspect", path, "-m", model)
    assert said.format(path=path) in result.err
    assert result.code == code or (code is None and result.code in (0, 3)), result.err
    again = lmi("inspect", path, "-m", model, "--strict")
    assert again.code == strict or (strict is None and again.code in (3, 6)), again.err


def test_f03_missing_and_without_text(
    lmi: Callable[..., object], model: str, folder: Callable[[Files], Path]
) -> None:
    root = folder({"a.png": PNG, "b.png": PNG, ".git/x": TEXT, "id_rsa": KEY})
    assert lmi("inspect", root / "absent", "-m", model).code == 2
    result = lmi("inspect", root, "-m", model)
    assert result.code == 3
    assert "skipped: 2 unsupported: PNG image, 1 hidden, 1 may hold secrets" in result.err


def test_f04_unreadable_alone_in_a_set_and_strict(
    lmi: Callable[..., object],
    model: str,
    folder: Callable[[Files], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = folder({"a": TEXT, "b": TEXT})
    real = os.open

    def refuse(path: str, *rest: int, **more: int) -> int:
        if str(path).endswith("in/a"):
            raise PermissionError(13, "Permission denied")
        return real(path, *rest, **more)

    monkeypatch.setattr("lmi_cli.sources.input.os.open", refuse)
    alone = lmi("inspect", root / "a", "-m", model)
    assert (alone.code, "permission denied" in alone.err) == (3, True)
    among = lmi("inspect", root, "-m", model)
    assert among.code == 0
    assert "cannot be read: permission denied" in among.out
    strict = lmi("inspect", root, "-m", model, "--strict")
    assert (strict.code, strict.out) == (6, "")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_f07_a_byte_order_mark_gives_no_token(
    lmi: Callable[..., object], model: str, tmp_path: Path, encoding: str
) -> None:
    path = tmp_path / "a.txt"
    counts = []
    for form in ("utf-8", encoding):
        path.write_bytes("naïve café\n".encode(form))
        counts.append(json.loads(lmi("inspect", path, "-m", model, "--json").out)["tokens"]["read"])
    assert counts[0] == counts[1]


@pytest.mark.parametrize("shift", range(4))
def test_f08_a_character_across_read_boundaries(
    lmi: Callable[..., object], model: str, tmp_path: Path, shift: int
) -> None:
    path = tmp_path / "a.txt"
    text = "a" * (65536 - shift) + "👍" * 3 + "b" * (65536 - shift) + "👍"
    path.write_bytes(text.encode())
    report = json.loads(lmi("inspect", path, "-m", model, "--json").out)
    assert report["inspect"]["chars"] == len(text)
    assert report["sources"][0]["issues"] == []


def test_f11_what_is_no_file(lmi: Callable[..., object], model: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in ((tmp_path / "pipe", "use - to read"), ("/dev/zero", "a device")):
        result = lmi("inspect", path, "-m", model)
        assert (result.code, said in result.err) == (3, True)


def test_f12_links_are_not_followed(
    lmi: Callable[..., object], model: str, folder: Callable[[Files], Path]
) -> None:
    root = folder({"a.txt": TEXT})
    for name, target in (("loop", "."), ("out", "/etc"), ("dangling", "nowhere")):
        (root / name).symlink_to(target)
    report = json.loads(lmi("inspect", root, "-m", model, "--json").out)
    assert [item["reason"] for item in report["skipped"]] == ["symbolic link"] * 3
    assert len(report["sources"]) == 1


def test_f13_a_file_that_grows_while_it_is_read(
    lmi: Callable[..., object], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmi_cli.sources.input import Input

    path = tmp_path / "log"
    path.write_bytes(TEXT * 9)
    real = Input.read

    def growing(self: Input, *count: int) -> bytes:
        with path.open("ab") as file:
            file.write(TEXT)
        return real(self, *count)

    monkeypatch.setattr(Input, "read", growing)
    result = lmi("inspect", path, "-m", model)
    assert result.code == 0
    assert "grew while it was read" in result.err


def test_f14_strange_names_are_harmless(
    lmi: Callable[..., object], model: str, folder: Callable[[Files], Path]
) -> None:
    root = folder({"a\nb": TEXT, "\x1b]0;x\x07": TEXT, "[red]x": TEXT, "\u202eabc": TEXT})
    (root / os.fsdecode(b"\xff\xfe")).write_bytes(TEXT)
    result = lmi("inspect", root, "-m", model, terminal=True)
    assert result.code == 0
    assert not set("\x1b\x07\u202e") & set(result.out + result.err)
    for name in ("a\\nb", "\\x1b]0;x\\x07", "[red]x", "\\u202eabc", "\\xff\\xfe"):
        assert name in result.out


def test_f15_f16_ignored_hidden_and_secret_files(
    lmi: Callable[..., object], model: str, folder: Callable[[Files], Path]
) -> None:
    root = folder(
        {
            "a.txt": TEXT,
            "sub/.gitignore": b"*.log\n!keep.log\n",
            "sub/b.log": TEXT,
            "sub/keep.log": TEXT,
            "sib/c.log": TEXT,
            ".env": b"SECRET=1\n",
            "id_rsa": KEY,
        }
    )
    report = json.loads(lmi("inspect", root, "-m", model, "--json").out)
    read = [Path(item["origin"]).relative_to(root) for item in report["sources"]]
    assert [str(path) for path in read] == ["a.txt", "sib/c.log", "sub/keep.log"]
    reasons = {Path(item["origin"]).name: item["reason"] for item in report["skipped"]}
    assert reasons[".env"] == "may hold secrets (environment file)"
    assert reasons["id_rsa"] == "may hold secrets (private key)"
    assert reasons["b.log"] == "ignored by .gitignore"


def test_f17_passwords(lmi: Callable[..., object], model: str, tmp_path: Path) -> None:
    path, password = tmp_path / "a.pdf", tmp_path / "password"
    path.write_bytes(_encrypted())
    for text, code, said in (("secret\n", 0, ""), ("wrong\n", 3, "encrypted: wrong password")):
        password.write_text(text)
        result = lmi("inspect", path, "-m", model, "--password-file", password)
        assert (result.code, said in result.err) == (code, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "bomb"),
    [
        ("F20", "a gigabyte in a page"),
        ("F20", "nested filters"),
        ("F21", "endless operators"),
        ("F22", "deep nesting"),
    ],
)
def test_f20_to_f22_a_hostile_page_costs_that_page(
    lmi: Callable[..., object],
    model: str,
    folder: Callable[[Files], Path],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    bomb: str,
) -> None:
    if fault == "F21":  # which takes all the time that a page may take
        options = partial(ReadOptions, pdf=PdfLimits(page_seconds=2))
        monkeypatch.setattr("lmi_cli.sources.ReadOptions", options)
    path = folder({"a.pdf": book_with(BOMBS[bomb]())}) / "a.pdf"
    result = lmi("inspect", path, "-m", model, "--json")
    assert result.code == 0
    report = json.loads(result.out)
    assert report["sources"][0]["chars"] >= 2 * len("Good page"), fault
    assert any("page 2" in issue for issue in report["sources"][0]["issues"])
    assert lmi("inspect", path, "-m", model, "--strict").code == 6


def test_f23_the_content_decides(
    lmi: Callable[..., object], model: str, folder: Callable[[Files], Path]
) -> None:
    root = folder({"a.pdf": TEXT, "b.txt": PAGES, "c.py": TEXT + b"\0" * 9})
    report = json.loads(lmi("inspect", root, "-m", model, "--json").out)
    kinds = {Path(item["origin"]).name: item["kind"] for item in report["sources"]}
    assert kinds == {"a.pdf": "text", "b.txt": "pdf"}
    assert all(item["remarks"] and not item["issues"] for item in report["sources"])
    assert lmi("inspect", root / "b.txt", "-m", model, "--strict").code == 0
    assert report["skipped"][0]["reason"].startswith("unsupported: binary")


@pytest.mark.parametrize("kind", ["gguf", "folder"])
def test_f30_without_a_cache(
    lmi: Callable[..., object],
    model: str,
    tiny_gguf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """What cannot be kept is made again by every start, so the user is told."""
    monkeypatch.setenv("LMI_CACHE_DIR", "/proc/nowhere")
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT)
    result = lmi("qa", path, "Why?", "-m", tiny_gguf if kind == "gguf" else model, "-n", 2)
    assert result.code == 0, result.err
    assert ("not cached" if kind == "gguf" else "the cache cannot be written") in result.err


def test_f57_f58_an_ascii_locale_and_a_worker_process(
    start: Callable[..., "Popen[bytes]"], model: str, tmp_path: Path
) -> None:
    """A worker starts after text was tokenised, and nothing but our own lines is printed."""
    (tmp_path / "0-é.txt").write_text("naïve 中文\n" * 99, encoding="utf-8")
    (tmp_path / "1.pdf").write_bytes(PAGES)
    process = start(
        "inspect",
        tmp_path,
        "-m",
        model,
        env={"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        python=("-W", "error"),
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert b"0-\\xe9.txt  (text)" in out
    assert b"1.pdf  (pdf, 3 pages)" in out
    assert err.startswith(b"tokenised in ") and err.count(b"\n") == 1
