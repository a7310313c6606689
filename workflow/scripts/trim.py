"""Move answers to a table's runs, small enough to commit.

    python -m workflow.scripts.trim ANSWERS RESULTS last|each words|digests

ANSWERS is what evaluate.py wrote of one model, or a folder for each checkpoint of a run; these go to RESULTS/1, /2
and so on, in the order of their steps. predictions.csv goes without its prompts and free questions: seed and file give
them again. `last`: of the checkpoints before the last the metrics alone, `each`: where a table chooses among its
checkpoints. `digests`: of questions that are not to be committed, digests stand for answers and predictions.
"""

import csv
import hashlib
import json
import shutil
import sys
from pathlib import Path

from utils.artifacts import fill_csv, recorded_file, write_json
from utils.rules import checkpoints_in
from workflow.results import COLUMNS

# What holds words of the texts and of the questions.
WORDS = ("answer", "prediction", "chosen")


def trim(answers: Path, results: Path, predictions: bool = True, words: bool = True) -> None:
    """metrics.json comes last: where it is, the rest is there as well."""
    metrics = json.loads((answers / "metrics.json").read_text(encoding="utf-8"))
    metrics.pop("sha256", None)  # of the predictions with their prompts
    if predictions:
        with open(answers / "predictions.csv", newline="", encoding="utf-8") as opened:
            rows = list(csv.DictReader(opened))
        without = [{column: row[column] for column in COLUMNS} for row in rows]
        if not words:
            without = [row | {column: digest(row[column]) for column in WORDS} for row in without]
        with recorded_file(results / "predictions.csv", metrics, results / "metrics.json") as aside:
            fill_csv(aside, without)
    else:
        write_json(results / "metrics.json", metrics)


def digest(text: str) -> str:
    """The same for the same text, so that an answer can still be compared with the one chosen; of nothing, nothing."""
    return text and hashlib.sha256(text.encode()).hexdigest()[:12]


def main(answers: str, results: str, kept: str, shown: str) -> None:
    checkpoints, words = checkpoints_in(answers), shown == "words"
    for part, folder in enumerate(checkpoints, start=1):
        trim(folder, Path(results, str(part)), kept == "each" or part == len(checkpoints), words)
    if not checkpoints:
        trim(Path(answers), Path(results), words=words)
    shutil.rmtree(answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
