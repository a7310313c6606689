"""Print the scores of several evaluated checkpoints as one table, by field.

python demo/table.py none=model_none/checkpoint-40 random=model_random/checkpoint-40
"""

import json
import sys
from pathlib import Path

import pandas as pd

MEASURES = {"exact_match": "exact match, %", "f1": "F1, %", "log_likelihood": "log-likelihood of the gold answer"}


def table(arms: dict[str, Path]) -> str:
    rows = []
    for measure, title in MEASURES.items():
        for arm, checkpoint in arms.items():
            metrics = json.loads((checkpoint / "evaluation/metrics.json").read_text(encoding="utf-8"))
            scores = metrics["fields"] | {"average": metrics["average"]}
            rows.append({"measure": title, "arm": arm} | {field: scores[field][measure] for field in scores})
    return pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.1f}")


if __name__ == "__main__":
    print(table({arm: Path(folder) for arm, folder in (argument.split("=", 1) for argument in sys.argv[1:])}))
