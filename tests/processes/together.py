"""Run by two processes at once: everything that processes do together. See ``test_launched``."""

import json
import os
import sys
import time
from pathlib import Path

from lmi_cli.journal import Journal
from lmi_cli.processes import place, starting


def main(folder: Path) -> None:
    here = place.place()
    if here is None:
        sys.exit(starting.start(2))
    from lmi_cli.processes import launched

    launched._PART = 8  # so that results go in several parts
    processes = launched.Launched(here)
    with processes.first():
        if processes.rank == 0:
            time.sleep(0.2)
            (folder / "prepared").touch()
        prepared = (folder / "prepared").exists()
    kept = Journal(folder / "kept.jsonl" if processes.rank == 0 else None, {})  # two machines
    units = [{"n": number} for number in range(7)]
    mine = []
    for unit in processes.share(units):
        time.sleep(0.01 if processes.rank else 0.1)
        kept.add(unit, {"by": processes.rank})
        mine.append(unit["n"])
        processes.done(1)
    waited = sum(1 for _ in processes.waiting())
    done = processes.done()
    processes.gather(kept)
    again = list(processes.share(units[:1]))
    found = {
        "prepared": prepared,
        "mine": mine,
        "waited": waited,
        "done": done,
        "kept": len(kept.results),
        "again": len(again),
        "collected": processes.collect({"rank": processes.rank}),
        "threads": os.environ["OMP_NUM_THREADS"],
        "fails_first": processes.fails_first(),
    }
    (folder / f"{processes.rank}.json").write_text(json.dumps(found))
    processes.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
