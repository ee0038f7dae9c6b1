"""What would not fit memory is refused with both figures, before any of it is taken."""

from pathlib import Path

import pytest

from lmi_cli import memory
from lmi_cli.errors import ResourceError


def group(folder: Path, limit: str, used: str) -> tuple[Path, Path]:
    (folder / "limit").write_text(limit)
    (folder / "used").write_text(used)
    return folder / "limit", folder / "used"


@pytest.mark.parametrize(("limit", "free"), [("5000\n", 2000), ("max\n", None), ("2000\n", 0)])
def test_a_container_has_its_own_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, free: int | None
) -> None:
    absent = (tmp_path / "absent", tmp_path / "absent")
    monkeypatch.setattr(memory, "_CGROUPS", (group(tmp_path, limit, "3000\n"), absent))
    found = memory.available_bytes()
    if free is None:
        monkeypatch.setattr(memory, "_CGROUPS", ())
        assert found > 10**6 and abs(found - memory.available_bytes()) < found / 2
    else:
        assert found == free


def test_what_fits_is_let_through_and_what_does_not_is_named() -> None:
    memory.require(10**9, "the model", "a smaller one", free=10**9)
    with pytest.raises(ResourceError) as caught:
        memory.require(3 * 10**9, "the model", "a smaller one", free=10**9)
    assert caught.value.message == "the model takes 3.0 GB of memory, but only 1.0 GB is free"
    assert caught.value.hint == "a smaller one"
