"""Make a run's answers small enough to commit.

    python workflow/trim.py FOLDER last|before

Of the last checkpoint predictions.csv stays without its prompts, which the questions' seed gives again; of a checkpoint
before it the metrics alone. Where a table chooses among its checkpoints, each counts as the last.
"""

import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.artifacts import write_csv


def trim(folder: Path, checkpoint: str) -> None:
    path = folder / "predictions.csv"
    if checkpoint == "before":
        path.unlink()
        return
    with open(path, newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    write_csv(path, [{column: cell for column, cell in row.items() if column != "prompt"} for row in rows])


if __name__ == "__main__":
    trim(Path(sys.argv[1]), sys.argv[2])
