"""Runs and studies for tests, written as a table's rules and scripts do."""

from pathlib import Path

from utils import artifacts
from workflow.results import add


def answer(field: str, name: str, log_likelihood: float = -1.0, **cells) -> dict:
    """A row of predictions.csv; wrong, unless the cells say otherwise."""
    row = {"field": field, "name": name, "answer": "a", "prediction": "b", "exact_match": 0.0, "f1": 0.0}
    return row | {"log_likelihood": log_likelihood, "chosen": ""} | cells


def write_run(made: Path, records: dict[str, dict], answers: dict[str, list[dict]]) -> None:
    """Files of runs as a table's rules leave them: records by name, and the rows of predictions.csv by folder."""
    for asked, rows in answers.items():
        artifacts.write_csv(made / asked / "predictions.csv", rows)
    for name, record in records.items():
        artifacts.write_json(made / name, record)


def add_answers(results: Path, answers: dict[str, list[dict]]) -> None:
    """Make a study of answers alone."""
    made = results.with_name(f"{results.name}_made")
    write_run(made, {f"{asked}/metrics.json": {} for asked in answers}, answers)
    add(made, results)
