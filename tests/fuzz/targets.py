"""What is fuzzed: for each format sound files, words that mean something in it, and who reads it.

A reader may raise an :class:`~lmi_cli.errors.LmiError`, which a user sees as one line and an exit
code. Anything else is a bug.
"""

import contextlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lmi_cli.cache import statefile
from lmi_cli.cache.signature import is_state_file
from lmi_cli.checkpoints import gguf, tensors, validation
from lmi_cli.checkpoints.resolve import ModelFiles
from lmi_cli.cli.console import one_line
from lmi_cli.errors import LmiError, StateFileError
from lmi_cli.models import preparing
from lmi_cli.models.blueprint import Blueprint, declared
from lmi_cli.models.chat import ChatTemplate
from lmi_cli.models.facts import ModelFacts
from lmi_cli.models.prepared import Prepared, PreparedTokenizer, recall, remember
from lmi_cli.sources import ReadOptions, ignore, open_corpus, pdf
from lmi_cli.sources.options import PdfLimits

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "sources")]

from chat_model import TEMPLATE, TEXTS, build_tokenizer  # noqa: E402
from documents import make_pdf, make_zip  # noqa: E402
from model_builders import CONFIG, model_folder, safetensors_bytes, span, tiny_gguf  # noqa: E402


@dataclass(frozen=True)
class Target:
    """One format.

    Attributes:
        name: What it is called.
        seeds: Makes sound files, each of which is read without any error.
        words: Payloads that mean something in the format.
        read: Reads a file, given a folder for itself.
        share: How many inputs it gets in a long run, compared with the others.
    """

    name: str
    seeds: Callable[[Path], Sequence[bytes]]
    words: Sequence[bytes]
    read: Callable[[bytes, Path], None]
    share: float = 1.0


def document(data: bytes, folder: Path, name: str = "a", options: Any = None) -> None:
    """Read a document as a command would, and check what it says of it."""
    path = folder / name
    path.write_bytes(data)
    corpus = open_corpus([str(path)], options or ReadOptions())
    chars = 0
    for block in corpus.blocks:
        block.text.encode()  # a lone surrogate could not be printed
        assert block.text and block.source == 0
        assert block.char_start == chars
        chars += len(block.text)
    (source,) = corpus.sources
    assert source.chars == chars
    for line in (*source.issues, *source.remarks):
        one_line(line).encode()


def texts(folder: Path) -> list[bytes]:
    text = "Ein Fluß, naïve; 日本語; 1,234.5\r\n\x0cPage two.\n" * 9
    codecs = ("utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "shift_jis")
    return [text.encode(codec, "replace") for codec in codecs]


HTML = b"""<!doctype html><html><head><title>T</title><meta charset="utf-8"><style>p{}</style>
</head><body><!-- note --><h1 id=a>Head &amp; &#8212; &eacute;</h1><p>One<br>two
<b>three</b><pre>  x
 y</pre><ul><li>a<li>b</ul><table><tr><td>1<td>2</table>
<script>var x = "</p>";</script></body></html>"""

NOTEBOOK = json.dumps(
    {
        "cells": [
            {"cell_type": "markdown", "metadata": {}, "source": ["# Title\n", "Text."]},
            {"cell_type": "code", "metadata": {}, "source": "x = 1", "outputs": [
                {"output_type": "stream", "name": "stdout", "text": ["1\n"]}]},
        ],
        "metadata": {"language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
).encode()  # fmt: skip

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
DOCX = f"""<?xml version="1.0" encoding="UTF-8"?><w:document xmlns:w="{WORD}"><w:body>
<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>Head</w:t></w:r></w:p>
<w:p><w:r><w:t xml:space="preserve">One </w:t><w:tab/><w:t>two</w:t><w:br/></w:r></w:p>
<w:tbl><w:tr><w:tc><w:p><w:r><w:t>Cell</w:t></w:r></w:p></w:tc></w:tr></w:tbl>
</w:body></w:document>""".encode()
TYPES = (
    b'<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/'
    b'content-types"><Override PartName="/word/document.xml"/></Types>'
)
OPF = b"""<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf"><manifest>
<item id="a" href="a.xhtml" media-type="application/xhtml+xml"/><item id="b" href="b%20c.xhtml"
media-type="application/xhtml+xml"/></manifest><spine><itemref idref="a"/><itemref idref="b"/>
</spine></package>"""
CONTAINER = (
    b'<?xml version="1.0"?><container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
    b'<rootfiles><rootfile full-path="o/p.opf"/></rootfiles></container>'
)
PAGE = b"<html><head><title>t</title></head><body><h1>One</h1><p>Two &amp; three</p></body></html>"


def docx(xml: bytes = DOCX, types: bytes = TYPES) -> bytes:
    return make_zip({"[Content_Types].xml": types, "word/document.xml": xml})


def epub(opf: bytes = OPF, container: bytes = CONTAINER, page: bytes = PAGE) -> bytes:
    return make_zip(
        {
            "mimetype": b"application/epub+zip",
            "META-INF/container.xml": container,
            "o/p.opf": opf,
            "o/a.xhtml": page,
            "o/b c.xhtml": page,
        }
    )


def zipped(member: Callable[[bytes], bytes]) -> Callable[[bytes, Path], None]:
    """Read a container of which one member has been damaged."""
    return lambda data, folder: document(member(data), folder)


def rules(data: bytes, folder: Path) -> None:
    paths = ([b"a"], [b"a", b"b.txt"], [b"x" * 200], [b"a" * 50, b"[", b"\\"], [b"\xff\n"])
    for pattern in itertools.islice(ignore.parse(data), 200):
        for parts in paths:
            pattern.matches(parts, True)


BOOK = make_pdf([["One", "two"], ["Three"]])


def portable_document(data: bytes, folder: Path) -> None:
    limits = PdfLimits(open_seconds=3.0, page_seconds=2.0, memory_bytes=512 << 20)
    document(data, folder, "a.pdf", ReadOptions(pdf=limits))


def worker_output(data: bytes, folder: Path) -> None:
    """A worker that writes anything at all to the parent."""
    script = folder / "worker.py"
    (folder / "out").write_bytes(data)
    script.write_text(
        f"import sys; sys.stdin.readline(); "
        f"sys.stdout.buffer.write(open({str(folder / 'out')!r}, 'rb').read())"
    )
    usual, pdf.WORKER = pdf.WORKER, script
    try:
        portable_document(BOOK, folder)
    finally:
        pdf.WORKER = usual


def frames(folder: Path) -> list[bytes]:
    messages = (
        {"pages": 2, "warning": None},
        {"page": 1, "label": "i", "text": "One", "cut": False, "warning": None},
        {"page": 2, "error": "broken", "warning": "w"},
    )
    encoded = [json.dumps(message).encode() for message in messages]
    return [b"".join(len(frame).to_bytes(4, "big") + frame for frame in encoded)]


def header(data: bytes, folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    tensors.read_header(path)


def gguf_header(data: bytes, folder: Path) -> None:
    path = folder / "a.gguf"
    path.write_bytes(data)
    gguf.read_header(path)


def gguf_seed(folder: Path) -> list[bytes]:
    return [tiny_gguf(folder / "tiny.gguf", layers=1).read_bytes()]


def tokenizer_json(data: bytes, folder: Path) -> None:
    """As ``known_model`` reads what has been checked."""
    (folder / "tokenizer.json").write_bytes(data)
    with contextlib.suppress(OSError, ValueError):
        tokenizer, _ = PreparedTokenizer(None, (), None).build(folder)
        for text in TEXTS:
            tokenizer.decode(tokenizer.encode(text).ids.tolist())


def tokenizer_in_use(data: bytes, folder: Path) -> None:
    """As the first start of a model reads it."""
    (model_folder(folder / "m") / "tokenizer.json").write_bytes(data)
    validation.check(folder / "m")
    preparing.prepare_tokenizer(folder / "m")


def tokenizer_seed(folder: Path) -> list[bytes]:
    return [build_tokenizer().to_str().encode()]


def configuration(data: bytes, folder: Path) -> None:
    (model_folder(folder / "m") / "config.json").write_bytes(data)
    validation.check(folder / "m")
    declared(json.loads(data))


def configuration_in_use(data: bytes, folder: Path) -> None:
    configuration(data, folder)
    (folder / "m" / "tokenizer.json").write_text(build_tokenizer().to_str())
    preparing.prepare(folder / "m")


def configurations(folder: Path) -> list[bytes]:
    full = {"max_position_embeddings": 64, "num_key_value_heads": 1, "rms_norm_eps": 1e-5,
            "rope_theta": 1e4, "tie_word_embeddings": False, "hidden_act": "silu",
            "intermediate_size": 16, "rope_scaling": None}  # fmt: skip
    return [json.dumps(CONFIG | full).encode(), json.dumps(CONFIG | full, indent=1).encode()]


def template(data: bytes, folder: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    ChatTemplate(data.decode("utf-8", "replace"), {"bos_token": "<s>"}).render(turns)


def state_file(data: bytes, folder: Path) -> None:
    path = folder / "a.lmi"
    path.write_bytes(data)
    is_state_file(path)
    statefile.read(path)


def state_seed(folder: Path) -> list[bytes]:
    path = folder / "seed.lmi"
    numbers = {"a": torch.arange(20.0), "b": torch.arange(6).view(2, 3)}
    statefile.write(path, numbers, {"sources": [], "plan": {"x": 1}})
    return [path.read_bytes()]


def record(data: bytes, folder: Path) -> None:
    with contextlib.suppress(StateFileError):
        files = ModelFiles("m", folder, "0" * 12, "folder")
        for path in _records(folder):
            path.write_bytes(data)
        recall(files)


def _records(folder: Path) -> Iterator[Path]:
    from lmi_cli.models.prepared import _record

    path = _record(ModelFiles("m", folder, "0" * 12, "folder")).path
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path


def record_seed(folder: Path) -> list[bytes]:
    """What a first start writes."""
    files = ModelFiles("m", folder, "0" * 12, "folder")
    facts = ModelFacts("llama", 64, (None,), 2, 1, 4, 8, 16, "float32", 100)
    shape = Blueprint("llama", 64, 1, 2, 1, 4, 8, 16, 16, 1e-5, ((1.0, 0.1),), (0,), (None,), False)
    remember(files, Prepared(facts, PreparedTokenizer(None, (2,), None), shape))
    assert recall(files) is not None
    return [path.read_bytes() for path in _records(folder)]


def terminal(data: bytes, folder: Path) -> None:
    shown = one_line(data.decode("utf-8", "replace"))
    harmless = "\u00a0\u00ad\u3000 "
    assert all(char.isprintable() or char in harmless or ord(char) > 0xFF for char in shown)
    assert "\x1b" not in shown and "\n" not in shown and "\u202e" not in shown


JSON_WORDS = (b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"{}", b"[]", b'""')
XML_WORDS = (
    b"<", b">", b"</", b"/>", b"&", b"&#x110000;", b"&#0;", b"<!--", b"-->", b"<![CDATA[", b"]]>",
    b'<!DOCTYPE a [<!ENTITY b "c">]>', b"&b;", b"<?x ", b"?>", b'="', b"'",
)  # fmt: skip
PDF_WORDS = (
    b"obj", b"endobj", b"stream", b"endstream", b"<<", b">>", b"[", b"]", b"/Length", b"/Filter",
    b"/FlateDecode", b"/Kids", b"/Parent", b"/Type /Page", b"1 0 R", b"10 0 R", b"xref", b"(", b")",
    b"startxref", b"trailer", b"/Encrypt", b"/Prev 0", b"BT", b"ET", b"Tj", b"/ToUnicode",
)  # fmt: skip

ZIP_WORDS = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06")
RULES = b"*.pyc\n!a/b\n/x/**/y\n[!a-c]?\\ \n**/z/\n# c\n[[:alpha:]]"
RULE_WORDS = (b"*", b"**", b"?", b"[", b"]", b"!", b"/", b"\\", b"[[:", b":]]", b"-")
TENSORS = safetensors_bytes({"w": span(0, 16, [4]), "v": span(16, 24, [2, 1])}, bytes(24))
TENSOR_WORDS = (*JSON_WORDS, b'"dtype"', b'"shape"', b'"data_offsets"')
TOKENIZER_WORDS = (*JSON_WORDS, b'"type"', b'"vocab"', b'"merges"')
TEMPLATE_WORDS = (
    b"{%", b"%}", b"{{", b"}}", b"for", b"if", b"endfor", b"|", b".", b"__class__", b"range(9)",
    b"namespace(",
)  # fmt: skip


def one(seed: bytes) -> Callable[[Path], Sequence[bytes]]:
    return lambda folder: [seed]


TARGETS = {
    target.name: target
    for target in (
        Target("text", texts, (b"\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\x85"), document),
        Target("HTML", one(HTML), XML_WORDS, document),
        Target("notebook", one(NOTEBOOK), JSON_WORDS, document),
        Target("DOCX", one(docx()), ZIP_WORDS, document),
        Target("XML of a DOCX", one(DOCX), XML_WORDS, zipped(docx)),
        Target("EPUB", one(epub()), ZIP_WORDS, document),
        Target("package of an EPUB", one(OPF), XML_WORDS, zipped(epub)),
        Target("page of an EPUB", one(PAGE), XML_WORDS, zipped(lambda page: epub(page=page))),
        Target(".gitignore", one(RULES), RULE_WORDS, rules),
        Target("PDF", one(BOOK), PDF_WORDS, portable_document, 0.02),
        Target("output of the PDF worker", frames, JSON_WORDS, worker_output, 0.02),
        Target("safetensors header", one(TENSORS), TENSOR_WORDS, header),
        Target("GGUF header", gguf_seed, (b"GGUF",), gguf_header),
        Target("tokenizer", tokenizer_seed, TOKENIZER_WORDS, tokenizer_json, 0.3),
        Target("tokenizer in use", tokenizer_seed, TOKENIZER_WORDS, tokenizer_in_use, 0.05),
        Target("configuration", configurations, JSON_WORDS, configuration),
        Target("configuration in use", configurations, JSON_WORDS, configuration_in_use, 0.01),
        Target("chat template", one(TEMPLATE.encode()), TEMPLATE_WORDS, template),
        Target("state file", state_seed, JSON_WORDS, state_file),
        Target("record of the cache", record_seed, JSON_WORDS, record),
        Target("terminal", one(b"a\x1b]0;x\x07b\x9b31m \xe2\x80\xae c\r\n"), (b"\x1b",), terminal),
    )
}


def check(target: Target, data: bytes, folder: Path) -> str:
    """Read one input; return ``read`` or the kind of error with which it was refused."""
    try:
        target.read(data, folder)
    except LmiError as error:
        one_line(error.message).encode()
        return type(error).__name__
    return "read"
