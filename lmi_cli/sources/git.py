"""The files of a work tree as git lists them. Imports only the standard library.

The folder may come from anywhere, so git must not run anything that its configuration names: the
one hook that listing files would call, fsmonitor, is switched off.
"""

import heapq
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lmi_cli.sources.reasons import IGNORED

READ_BYTES = 65536
PATH_BYTES = 65536


def list_files(root: Path) -> Iterator[tuple[str, str | None]] | None:
    """List the files of a folder as git sees them: tracked, new and ignored.

    Args:
        root: The folder.

    Returns:
        Pairs of a path below ``root`` and the reason why it is ignored (None if it is not),
        ordered by the bytes of the path; an ignored folder is one entry with a slash at its end.
        None instead if git is not installed, the folder is in no work tree, or it is itself
        ignored (naming an ignored folder is a request to read it).
    """
    git = shutil.which("git")
    if git is None:
        return None
    command = [
        git,
        "-c",
        "core.fsmonitor=false",
        "-c",
        "core.untrackedCache=false",
        "-C",
        str(root),
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}

    def run(*arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    with run("rev-parse", "--is-inside-work-tree") as asked:
        if asked.communicate()[0].strip() != b"true" or asked.returncode:
            return None
    with run("check-ignore", "--quiet", ".") as asked:
        if asked.wait() == 0:
            return None
    listings: list[tuple[list[str], str | None]] = [
        (["-c"], None),
        (["-o", "--exclude-standard"], None),
        (["-o", "-i", "--directory", "--exclude-standard"], IGNORED),
    ]
    return _merged([(run("ls-files", "-z", *how), reason) for how, reason in listings])


def _merged(
    running: list[tuple[subprocess.Popen[bytes], str | None]],
) -> Iterator[tuple[str, str | None]]:
    try:
        streams = (_paths(process.stdout, reason) for process, reason in running if process.stdout)
        last = b""
        for path, reason in heapq.merge(*streams, key=lambda entry: entry[0]):
            if path != last:  # an unmerged file is listed once for each of its stages
                yield os.fsdecode(path), reason
            last = path
    finally:
        for process, _ in running:
            process.kill()
            process.communicate()


def _paths(stream: IO[bytes], reason: str | None) -> Iterator[tuple[bytes, str | None]]:
    kept = b""
    while data := stream.read(READ_BYTES):
        *paths, kept = (kept + data).split(b"\0")
        if len(kept) > PATH_BYTES:
            return
        for path in paths:
            yield path, reason
