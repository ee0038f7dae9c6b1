"""The speed of the last reading is kept for forecasts; without it there is none."""

from pathlib import Path

import pytest

from lmi_cli.checkpoints.resolve import ModelFiles
from lmi_cli.disk import Record
from lmi_cli.models.speeds import recall, remember, setting_of

FILES = ModelFiles("model", Path("/nowhere"), "abc", "folder")
METHOD = {"name": "lm-infinite", "window": 2048}
SETTING = setting_of("read", "bfloat16", METHOD)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LMI_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_the_last_reading_of_each_setting() -> None:
    assert recall(FILES).get(SETTING) is None
    other = setting_of("score", "bfloat16", METHOD)
    for tokens in (50_000, 60_000):
        remember(FILES, SETTING, tokens, 100.0)
    remember(FILES, other, 40_000, 100.0)
    assert (recall(FILES).get(SETTING), recall(FILES).get(other)) == (600.0, 400.0)
    assert recall(FILES).get(setting_of("read", "float32", METHOD)) is None


def test_a_short_reading_says_nothing() -> None:
    remember(FILES, SETTING, 500, 0.1)
    assert recall(FILES).get(SETTING) is None


@pytest.mark.parametrize("speed", [None, "fast", 7, True, -1.0, 0.0, 1e300, [500.0]])
def test_a_damaged_speed_is_no_speed(speed: object) -> None:
    assert Record("speeds", FILES.identity).write({SETTING: speed})
    assert recall(FILES).get(SETTING) is None
    remember(FILES, SETTING, 50_000, 100.0)
    assert recall(FILES).get(SETTING) == 500.0


def test_a_cache_that_cannot_be_written(cache: Path) -> None:
    (cache / "speeds").write_text("in the way")
    remember(FILES, SETTING, 50_000, 100.0)
    assert recall(FILES).get(SETTING) is None
