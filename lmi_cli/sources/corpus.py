"""Turn the named paths into one stream of blocks, recording what was read and what was skipped.

Imports only ``lmi_cli.errors`` and this package.
"""

import glob
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from lmi_cli.errors import NoInputError, UsageError
from lmi_cli.sources import html, notebook, office, pdf, text
from lmi_cli.sources.blocks import BLOCK_CHARS, Block, Corpus, Piece, Skipped, Source
from lmi_cli.sources.input import Input, open_file, reason_of
from lmi_cli.sources.options import ReadOptions
from lmi_cli.sources.reasons import BLANK, EMPTY, UnreadableError
from lmi_cli.sources.sniff import kind_of, misnamed, unwelcome
from lmi_cli.sources.walk import walk

STDIN = "<stdin>"
# Limits the report of a folder with a million images; further skipped files are only counted.
LISTED_SKIPS = 10_000


@dataclass(frozen=True, slots=True)
class _Target:
    """One document to be read: its name in the report, how to open it, its size, who chose it."""

    origin: str
    open: Callable[[], AbstractContextManager[Input]]
    size_bytes: int = 0
    named: bool = True


def open_corpus(
    paths: Sequence[str],
    options: ReadOptions = ReadOptions(),  # noqa: B008 - frozen
    *,
    stdin: BinaryIO | None = None,
    follows: bool = False,
) -> Corpus:
    """Open files, folders, globs and ``-`` as one stream of text.

    Args:
        paths: What to read, in order. ``-`` is standard input; a pattern that the shell did not
            expand is expanded here.
        options: Which files to read, and how.
        stdin: The stream for ``-``; by default the standard input of the process.
        follows: Whether other text comes before; a header then names each source.

    Returns:
        A corpus whose ``blocks`` read the documents as they are iterated. Closing the iterator
        ends every process and closes every file that it uses. At its end it raises
        :class:`~lmi_cli.errors.NoInputError` if there was nothing but white space.

    Raises:
        UsageError: A path does not exist, or ``-`` is named twice.
    """
    if not paths:
        raise UsageError("no source given", hint="name files or folders, or - for standard input")
    if list(paths).count("-") > 1:
        raise UsageError("'-' (standard input) is named more than once")
    named = [found for path in paths for found in _expand(path)]
    corpus = Corpus(blocks=())
    reading = _Reading(corpus, named, options, stdin, follows=follows)
    corpus.blocks, corpus.measure = reading.blocks(), reading.share
    return corpus


def _expand(path: str) -> list[str]:
    if path == "-" or os.path.exists(path):  # noqa: PTH110 - pathlib's may raise
        return [path]
    if glob.has_magic(path):
        if found := sorted(glob.glob(path, recursive=True)):  # noqa: PTH207 - may be absolute
            return found
        raise UsageError(f"no file matches: {printable(path)}")
    if os.path.lexists(path):
        raise UsageError(f"broken symbolic link: {printable(path)}")
    raise UsageError(f"no such file or folder: {printable(path)}")


class _Reading:
    """One pass over the targets; owns the counters of the stream."""

    def __init__(
        self,
        corpus: Corpus,
        named: list[str],
        options: ReadOptions,
        stdin: BinaryIO | None,
        *,
        follows: bool,
    ) -> None:
        self._corpus = corpus
        self._named = named
        self._options = options
        self._stdin = stdin
        self._unlisted: Counter[str] = Counter()
        folders = any(Path(path).is_dir() for path in named)
        self._headers = follows or len(named) > 1 or folders
        self._has_text = False
        self._total_bytes: int | None = None
        self._done_bytes = 0
        self._part_bytes = 0.0
        self._last = " " if follows else ""

    def blocks(self) -> Iterator[Block]:
        for target in self._targets():
            yield from self._read(target)
            self._done_bytes, self._part_bytes = self._done_bytes + target.size_bytes, 0.0
        for reason, count in self._unlisted.items():
            self._corpus.skipped.append(Skipped(f"{count:,} more files", reason))
        if not self._has_text:
            raise self._no_text()

    def share(self) -> float | None:
        """See :attr:`Corpus.share`."""
        if self._total_bytes is None:
            known = "-" not in self._named
            self._total_bytes = sum(map(self._size_of, self._named)) if known else 0
        if not self._total_bytes:
            return None
        return min(1.0, (self._done_bytes + self._part_bytes) / self._total_bytes)

    def _size_of(self, path: str) -> int:
        """Bytes of a file, or of the files of a folder that will be opened."""
        if not Path(path).is_dir():
            return _bytes_of(Path(path))
        found = walk(Path(path), self._options)
        return sum(_bytes_of(each.path) for each in found if each.reason is None)

    def _targets(self) -> Iterator[_Target]:
        for path in self._named:
            if path == "-":
                yield _Target(STDIN, self._open_stdin)
            elif Path(path).is_dir():
                for found in walk(Path(path), self._options):
                    if found.reason is not None:
                        self._skip(printable(found.path), found.reason)
                    else:
                        yield _Target(
                            printable(found.path),
                            partial(open_file, found.path, follow=False),
                            _bytes_of(found.path),
                            named=False,
                        )
            else:
                yield _Target(
                    printable(Path(path)),
                    partial(open_file, Path(path), follow=True),
                    _bytes_of(Path(path)),
                )

    def _open_stdin(self) -> AbstractContextManager[Input]:
        stream = self._stdin or (sys.stdin and sys.stdin.buffer)
        if not stream:
            raise UnreadableError("standard input is closed")
        return nullcontext(Input(STDIN, stream))

    def _skip(self, origin: str, reason: str) -> None:
        if len(self._corpus.skipped) < LISTED_SKIPS:
            self._corpus.skipped.append(Skipped(origin, reason))
        else:
            self._unlisted[reason] += 1

    def _read(self, target: _Target) -> Iterator[Block]:
        """Read one document; anything wrong with it becomes a line of the report."""
        source = Source(target.origin, "")
        index = len(self._corpus.sources)
        held: list[Piece] = []
        try:
            with target.open() as data:
                asked = self._options.include_secrets
                if not target.named and (
                    reason := unwelcome(data.head, data.name, include_secrets=asked)
                ):
                    raise UnreadableError(reason)
                for piece in _pieces(data, source, self._options):
                    source.size_bytes = data.consumed_bytes
                    self._count(target, source, piece)
                    held.append(piece)
                    if index == len(self._corpus.sources):
                        # White space alone is not a document: hold it until text comes.
                        if piece.text.isspace() and sum(len(p.text) for p in held) < BLOCK_CHARS:
                            continue
                        self._corpus.sources.append(source)
                        if self._headers:
                            yield self._header(index, target.origin)
                    for waiting in held:
                        yield from self._emit(index, source, waiting)
                    held.clear()
                source.size_bytes = data.consumed_bytes
                source.issues += data.changes()
        except UnreadableError as error:
            self._fail(index, source, error.reason)
        except OSError as error:
            self._fail(index, source, reason_of(error))
        else:
            if index == len(self._corpus.sources):
                self._skip(target.origin, BLANK if source.size_bytes else EMPTY)

    def _count(self, target: _Target, source: Source, piece: Piece) -> None:
        """Note how much of a source has been read, up to a piece; unknown for an archive."""
        if piece.page is not None and source.pages:
            self._part_bytes = target.size_bytes * piece.page / source.pages
        elif piece.line is not None:
            self._part_bytes = min(source.size_bytes, target.size_bytes)

    def _fail(self, index: int, source: Source, reason: str) -> None:
        if index < len(self._corpus.sources):
            source.issues.append(f"the rest was not read: {reason}")
        else:
            self._skip(source.origin, reason)

    def _header(self, index: int, origin: str) -> Block:
        gap = "" if not self._last else "\n" if self._last == "\n" else "\n\n"
        name = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in origin)
        return self._pass(Block(index, f"{gap}==> {name} <==\n", 0, header=True))

    def _emit(self, index: int, source: Source, piece: Piece) -> Iterator[Block]:
        line = piece.line
        for part in text.blocks([piece.text]):
            block = Block(index, part, source.chars, piece.page, piece.label, line)
            self._has_text = self._has_text or not part.isspace()
            source.chars += len(part)
            if line is not None:
                line += part.count("\n")
            yield self._pass(block)

    def _pass(self, block: Block) -> Block:
        self._last = block.text[-1]
        return block

    def _no_text(self) -> NoInputError:
        skipped = self._corpus.skipped
        what = ", ".join(STDIN if path == "-" else printable(path) for path in self._named[:3])
        if len(self._named) > 3:
            what += f" and {len(self._named) - 3} more"
        if len(skipped) == 1 and not self._headers:
            reason = skipped[0].reason
            if reason not in (EMPTY, BLANK):
                return NoInputError(f"{what}: {reason}")
        if not skipped or not self._headers:
            return NoInputError(f"no text in {what}")
        counts: Counter[str] = Counter()
        for skip in skipped[:LISTED_SKIPS]:
            counts[skip.reason.partition(" (")[0]] += 1
        for reason, count in self._unlisted.items():
            counts[reason.partition(" (")[0]] += count
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())
        return NoInputError(f"no text in {what}; skipped: {reasons}")


def _bytes_of(path: Path) -> int:
    """Size of a file; 0 if it is not known."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return 0


def _pieces(data: Input, source: Source, options: ReadOptions) -> Iterator[Piece]:
    """Choose the reader by the content of the input."""
    kind = kind_of(data.head, data.name)
    match kind:
        case "pdf":
            pieces = pdf.read(data, source, options)
        case "zip":
            kind, pieces = office.read(data, source)
        case "html":
            pieces = html.read(data, source)
        case "notebook":
            pieces = notebook.read(data, source)
        case _:
            pieces = text.read(data, source)
    source.kind = kind
    if data.size_bytes is not None and (note := misnamed(kind, data.name)):
        source.remarks.append(note)
    return pieces


def printable(path: Path | str) -> str:
    """A path as text that can be written anywhere, with escapes for bytes that are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
