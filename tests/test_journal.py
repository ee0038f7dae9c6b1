"""The file of results by which an interrupted run goes on."""

import os
from pathlib import Path

import pytest

from lmi_cli.errors import ResourceError, UsageError
from lmi_cli.journal import Journal

RUN = {"model": "m", "window": 8}


def test_a_later_start_has_the_results(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    Journal(path, RUN).add({"length": 4, "depth": 0.5}, {"correct": True, "nll": 0.1})
    later = Journal(path, RUN)
    assert {"depth": 0.5, "length": 4} in later
    assert later.result({"length": 4, "depth": 0.5}) == {"correct": True, "nll": 0.1}
    assert {"length": 5, "depth": 0.5} not in later


def test_results_of_other_runs_stay_in_the_file_but_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    Journal(path, RUN).add({"n": 1}, {"is": "mine"})
    other = Journal(path, {**RUN, "window": 16})
    assert not other.results
    other.add({"n": 1}, {"is": "theirs"})
    assert Journal(path, RUN).result({"n": 1}) == {"is": "mine"}


def test_the_later_result_of_a_unit_counts(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    first, second = Journal(path, RUN), Journal(path, RUN)
    first.add({"n": 1}, {"is": 1})
    second.add({"n": 1}, {"is": 2})
    first.read()
    assert first.result({"n": 1}) == {"is": 2}


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_line_is_done_again_and_spoils_no_other(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "results.jsonl"
    journal = Journal(path, RUN)
    journal.add({"n": 1}, {"is": 1})
    journal.add({"n": 2}, {"is": 2})
    path.write_bytes(path.read_bytes()[:-cut])
    later = Journal(path, RUN)
    torn = cut > 1  # without its line feed alone, a result is whole
    assert later.damaged == torn
    assert ({"n": 2} in later) is not torn
    later.add({"n": 3}, {"is": 3})
    assert {"n": 3} in Journal(path, RUN)
    assert {"n": 1} in Journal(path, RUN)


@pytest.mark.parametrize("left", [1, 8, 9, 30])
def test_the_only_line_may_be_torn(tmp_path: Path, left: int) -> None:
    path = tmp_path / "results.jsonl"
    Journal(path, RUN).add({"n": 1}, {"is": 1})
    path.write_bytes(path.read_bytes()[:left])
    later = Journal(path, RUN)
    assert not later.results and later.damaged == 1
    later.add({"n": 2}, {"is": 2})
    assert Journal(path, RUN).result({"n": 2}) == {"is": 2}


@pytest.mark.parametrize("content", [b"notes\n", b"\xff\xfe", b"[1]\n", b"{}\n", b"[" * 99_999])
def test_another_file_is_refused_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"notes\.txt is not a file of results"):
        Journal(path, RUN)
    assert path.read_bytes() == content


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "results.jsonl", RUN)
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(ResourceError, match="cannot be written"):
        journal.add({"n": 1}, {})
    with pytest.raises(UsageError, match="is not a file of results"):
        Journal(tmp_path / "results.jsonl", RUN)


def test_a_folder_that_is_gone_is_an_error_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "gone" / "results.jsonl", RUN)
    with pytest.raises(ResourceError, match="cannot be written: No such file"):
        journal.add({"n": 1}, {})


def test_a_file_that_may_not_be_looked_at_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path, **options: bool) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", forbidden)
    with pytest.raises(ResourceError, match="cannot be read: Permission denied"):
        Journal(tmp_path / "results.jsonl", RUN)


@pytest.mark.skipif(os.name != "posix", reason="devices of POSIX")
@pytest.mark.parametrize("device", ["/dev/null", "/dev/full"])
def test_a_device_is_refused(device: str) -> None:
    with pytest.raises(UsageError, match="is not a file of results"):
        Journal(Path(device), RUN)


def test_without_a_file_results_are_in_memory() -> None:
    journal = Journal(None, RUN)
    journal.add({"n": 1}, {"is": 1})
    assert journal.result({"n": 1}) == {"is": 1}


def test_what_json_cannot_say_is_not_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "results.jsonl", RUN)
    with pytest.raises(ValueError, match="Out of range"):
        journal.add({"n": 1}, {"nll": float("nan")})
