"""Options for choosing and reading sources. Imports only the standard library."""

from dataclasses import dataclass, field

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PdfLimits:
    """What a PDF may cost before its worker is stopped.

    Attributes:
        open_seconds: Processor time to open a file and to count its pages.
        page_seconds: Processor time for one page.
        patience: Wall-clock time allowed, as a multiple of that processor time: the machine may be
            busy, and some systems do not limit processor time.
        memory_bytes: Address space of the worker, where the system can limit it.
        pages: Largest number of pages read from one file.
        page_chars: Largest number of characters kept of one page.
        failed_pages: Pages that may kill a worker before the rest of the file is given up.
    """

    open_seconds: float = 60.0
    page_seconds: float = 10.0
    patience: float = 4.0
    memory_bytes: int = 1024 * MIB
    pages: int = 100_000
    page_chars: int = 2_000_000
    failed_pages: int = 8


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How sources are chosen and read.

    Attributes:
        include: Patterns in the syntax of .gitignore; in a folder, only files that match are read.
        exclude: Patterns in the same syntax; files and folders that match are not read.
        gitignore: Whether .gitignore files (and ``.git/info/exclude``) are respected.
        max_file_size: Largest file, in bytes, that is read from a folder; None for no limit. A
            file that the user names is never refused for its size.
        include_secrets: Whether files of a folder that may hold secrets are read, too.
        password: For encrypted PDF files.
        pdf: Limits on PDF files.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    gitignore: bool = True
    max_file_size: int | None = 32 * MIB
    include_secrets: bool = False
    password: str | None = field(default=None, repr=False)
    pdf: PdfLimits = field(default_factory=PdfLimits)
