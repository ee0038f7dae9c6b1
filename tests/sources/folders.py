"""Folders that the tests fill, and what a walk finds in them."""

from lmi_cli.sources import ReadOptions
from lmi_cli.sources.walk import walk


def walk_pairs(folder, **options):
    for found in walk(folder, ReadOptions(**options)):
        yield found.path.relative_to(folder).as_posix(), found.reason


def fill(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
