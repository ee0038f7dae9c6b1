"""Files, folders, globs and pipes as one stream of text blocks that know where they came from.

Imports the standard library, pathspec, charset-normalizer and ``lmi_cli.errors``. pypdf is imported
only in the worker process, ``pdf_worker``.

::

    corpus        the named paths -> Corpus: order, headers, skipped inputs
    ├── walk      a folder -> the files to read     (git, ignore)
    ├── input     one file or pipe, opened safely   (sniff: its kind)
    └── readers   one module per kind: text (encoding), pdf (pdf_worker, page_text),
                  html, notebook, office
"""

from lmi_cli.sources.blocks import Block, Corpus, Skipped, Source
from lmi_cli.sources.corpus import open_corpus
from lmi_cli.sources.options import PdfLimits, ReadOptions
from lmi_cli.sources.reasons import is_by_rule

__all__ = [
    "Block",
    "Corpus",
    "PdfLimits",
    "ReadOptions",
    "Skipped",
    "Source",
    "is_by_rule",
    "open_corpus",
]
