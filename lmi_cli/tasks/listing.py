"""The outline of many files, such as a source tree: a line for each folder and each main file."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePath

from lmi_cli.tasks.divided import DividedDocument
from lmi_cli.tasks.picking import Sentence
from lmi_cli.tasks.summary import Entry, Length, Statement
from lmi_cli.text.parts import Part

_ABOUT_A_FOLDER = ("readme", "__init__", "mod", "lib", "index", "doc", "package-info")
"""Names, without suffix, of files that say what their folder is for; the first one counts."""


def files_and_folders(divided: DividedDocument, length: Length) -> Iterator[Entry]:
    """Entries of the folders and of the largest files in them, in order."""
    by_source: dict[int, list[Part]] = defaultdict(list)
    for part in divided.parts:
        by_source[divided.source(part)].append(part)
    paths = {source: PurePath(divided.sources[source].origin) for source in by_source}
    sizes = {source: sum(map(len, parts)) for source, parts in by_source.items()}
    folders: dict[PurePath, list[int]] = defaultdict(list)
    for source, path in paths.items():
        folders[path.parent].append(source)
    by_size = sorted(by_source, key=lambda source: -sizes[source])
    main = set(by_size[: length.entries])
    seen: list[Sentence] = []

    def entry(kind: str, title: str, sources: Sequence[int], about: int | None) -> Entry:
        statements = [] if about is None else _statements(divided, by_source[about], length, seen)
        parts = [part for source in sources for part in by_source[source]]
        return replace(divided.entry(parts, statements), kind=kind, titles=(title,))

    for folder, inside in folders.items():
        about = _about(inside, paths)
        files = f"{len(inside):,} {'file' if len(inside) == 1 else 'files'}"
        yield entry("folder", f"{folder}/ ({files})", inside, about)
        for source in inside:
            if source in main and source != about:
                yield entry("file", str(paths[source]), [source], source)


def introduction(divided: DividedDocument) -> Sequence[int]:
    """Numbers of the parts that say what all the files are for.

    Those of the outermost README or of the file that says what the outermost folder is for; all
    parts, where neither has anything to say.
    """
    about: dict[int, tuple[int, int]] = {}
    for part in divided.parts:
        path = PurePath(divided.sources[divided.source(part)].origin)
        name = path.name.lower().partition(".")[0]
        if name in _ABOUT_A_FOLDER and divided.picker.sentences[part.number]:
            about[part.number] = (len(path.parts), _ABOUT_A_FOLDER.index(name))
    outermost = min(about.values(), default=None)
    return [number for number, place in about.items() if place == outermost] or range(
        len(divided.parts)
    )


def _about(sources: Sequence[int], paths: dict[int, PurePath]) -> int | None:
    """The file that says what a folder is for, if there is one."""
    for name in _ABOUT_A_FOLDER:
        for source in sources:
            if paths[source].name.lower().partition(".")[0] == name:
                return source
    return None


def _statements(
    divided: DividedDocument, parts: Sequence[Part], length: Length, seen: list[Sentence]
) -> list[Statement]:
    """What a file is about: its first sentences, or its first line where it has none."""
    found = [(part, item) for part in parts for item in divided.picker.sentences[part.number]]
    statements: list[Statement] = []
    for part, sentence in found:
        if len(statements) < length.per_entry and not sentence.repeats(seen):
            seen.append(sentence)
            statements.append(divided.statement(part.number, sentence))
    if not statements and (line := divided.first_line(parts[0])) is not None:
        statements = [line]
    return statements
