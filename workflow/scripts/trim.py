"""Move answers to a table's runs, small enough to commit.

    python -m workflow.scripts.trim ANSWERS RESULTS last|each

ANSWERS is what evaluate.py wrote of one model, or a folder for each checkpoint of a run; these go to RESULTS/1, /2
and so on, in the order of their steps. predictions.csv goes without its prompts and free questions: seed and file give
them again. `last`: of the checkpoints before the last the metrics alone, `each`: where a table chooses among its
checkpoints.
"""

import csv
import json
import shutil
import sys
from pathlib import Path

from utils.artifacts import fill_csv, recorded_file, write_json
from utils.rules import checkpoints_in
from workflow.results import COLUMNS


def trim(answers: Path, results: Path, predictions: bool = True) -> None:
    """metrics.json comes last: where it is, the rest is there as well."""
    metrics = json.loads((answers / "metrics.json").read_text(encoding="utf-8"))
    metrics.pop("sha256", None)  # of the predictions with their prompts
    if predictions:
        with open(answers / "predictions.csv", newline="", encoding="utf-8") as opened:
            rows = list(csv.DictReader(opened))
        without = [{column: row[column] for column in COLUMNS} for row in rows]
        with recorded_file(results / "predictions.csv", metrics, results / "metrics.json") as aside:
            fill_csv(aside, without)
    else:
        write_json(results / "metrics.json", metrics)


def main(answers: str, results: str, kept: str) -> None:
    checkpoints = checkpoints_in(answers)
    for part, folder in enumerate(checkpoints, start=1):
        trim(folder, Path(results, str(part)), kept == "each" or part == len(checkpoints))
    if not checkpoints:
        trim(Path(answers), Path(results))
    shutil.rmtree(answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
