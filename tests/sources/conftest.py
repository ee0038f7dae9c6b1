"""Fixtures for the tests of reading."""

import pytest

from lmi_cli.sources import pdf

from .documents import make_pdf


@pytest.fixture
def book() -> bytes:
    """A PDF of three pages, labelled i, 1, 2."""
    return make_pdf(
        [["Title page"], ["First chapter", "It begins."], ["It ends."]],
        labels=b"0 << /S /r >> 1 << /S /D >>",
    )


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[pdf.Worker]:
    """The worker processes for PDF that the test has started so far."""
    started: list[pdf.Worker] = []
    enter = pdf.Worker.__enter__

    def entered(self: pdf.Worker) -> pdf.Worker:
        started.append(self)
        return enter(self)

    monkeypatch.setattr(pdf.Worker, "__enter__", entered)
    return started
