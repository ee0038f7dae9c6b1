"""Fixtures for the tests of reading."""

import pytest

from .documents import make_pdf


@pytest.fixture
def book() -> bytes:
    """A PDF of three pages, labelled i, 1, 2."""
    return make_pdf(
        [["Title page"], ["First chapter", "It begins."], ["It ends."]],
        labels=b"0 << /S /r >> 1 << /S /D >>",
    )
