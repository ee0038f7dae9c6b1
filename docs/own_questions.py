"""Records for ``lmi eval`` from a set of questions such as those in ``docs/questions``.

    python docs/own_questions.py QUESTIONS.json DOCUMENT > NAME.jsonl

``gold`` becomes the place of the answer, ``answer`` the pattern of a right one, and each ``kind`` a
task of its own.
"""

import argparse
import json
import sys
from pathlib import Path


def main() -> None:
    """Print a record for each question."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("questions", type=Path)
    parser.add_argument("document", type=Path)
    given = parser.parse_args()
    for item in json.loads(given.questions.read_text(encoding="utf-8"))["questions"]:
        record = {
            "document": str(given.document.absolute()),
            "question": item["q"],
            "passage_pattern": item["gold"],
            "task": item["kind"],
        }
        if "answer" in item:
            record["pattern"] = item["answer"]
        sys.stdout.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
