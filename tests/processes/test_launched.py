"""Two processes that share work, over torch.distributed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmi_cli.processes import place

SCRIPT = Path(__file__).with_name("together.py")


@pytest.mark.slow
def test_two_processes_do_each_unit_once_and_know_all_results(tmp_path: Path) -> None:
    known = ("RANK", "WORLD_SIZE", place.GROUP, place.THREADS)
    environment = {name: value for name, value in os.environ.items() if name not in known}
    command = [sys.executable, str(SCRIPT), str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ended.stdout == ""
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    units = [unit for each in found for unit in each["mine"]]
    assert sorted(units) == list(range(7))
    assert len(found[1]["mine"]) > len(found[0]["mine"]) > 0  # who is faster does more
    assert found[1]["waited"] and not all(each["waited"] for each in found)
    for each in found:
        assert each["prepared"] and each["done"] == 7 and each["kept"] == 7
        assert each["collected"] == [{"rank": 0}, {"rank": 1}]
        assert each["threads"] == str(place.threads_of_each(2))
    assert sum(each["again"] for each in found) == 1
    assert sum(each["fails_first"] for each in found) == 1
    lines = (tmp_path / "kept.jsonl").read_text().splitlines()
    assert len(lines) == 7  # process 0 has written those of the other as well
