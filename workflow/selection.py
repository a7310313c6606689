"""What checkpoints answered, and which of them a table in epochs reports."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from utils.errors import InputError
from workflow.results import asked_at, read_predictions, read_study
from workflow.table import MEASURES, rates_of, run_of

# What decides; among equals the next.
DECIDES = ("exact_match", "f1")

# For each way of choosing, each arm's learning rate and part of the budget.
Chosen = dict[str, dict[str, tuple[float | None, int]]]

EVERYBODY = slice(None)

# The ways of a table in epochs.
OTHERS, REPORTED = "chosen on the others", "chosen on the reported"


def reported(config: dict) -> slice:
    """The people whom a table reports, or the paragraphs, in the order in which they are asked about."""
    return slice(config.get("reported"))


def ways_of(config: dict) -> dict[str, slice]:
    """How a checkpoint is chosen, and on whom; a table in tokens has none to choose."""
    if not config.get("epochs"):
        return {"": EVERYBODY}
    return {
        OTHERS: slice(config["reported"], None),
        # As the paper seems to do.
        REPORTED: reported(config),
    }


def read_answers(results: Path, asked: str = "", people: slice = EVERYBODY) -> pd.DataFrame:
    """A row for each question about these people, or paragraphs, and a column for each measure; without `asked`,
    `results` is a folder that evaluate.py wrote."""
    answers = read_study(results).answers.get(asked) if asked else read_predictions(results, {})
    if answers is None:
        raise InputError(f"{results}: no answers of {asked}; make tables TABLE={results.name}")
    answers = answers.assign(choice_accuracy=100.0 * (answers["chosen"] == answers["answer"]))
    if not answers["chosen"].astype(bool).all():
        answers["choice_accuracy"] = np.nan
    return about(answers, people)


def about(answers: pd.DataFrame, people: slice) -> pd.DataFrame:
    """Each field has the people in the dataset's order."""
    return answers[answers["name"].isin(answers["name"].unique()[people])]


def read_scores(results: Path, asked: str = "", people: slice = EVERYBODY) -> pd.DataFrame:
    """A row for each person, by name, and a column for each measure: means over the fields; for each paragraph of free
    questions, over these. See `read_answers`."""
    return read_answers(results, asked, people).groupby("name", sort=True)[list(MEASURES)].mean()


def choose(config: dict, results: Path) -> Chosen:
    """The last checkpoint where the budget is in tokens; in epochs, for each arm, the one whose answers have the
    highest exact match, mean over evaluations, seeds, people and fields. Among equals it is the one with the highest
    F1, then the one after the fewest epochs, then the learning rate that the table lists first."""
    parts = range(1, config["checkpoints"] + 1)
    if not config.get("epochs"):
        return {way: dict.fromkeys(config["arms"], (None, parts[-1])) for way in ways_of(config)}
    candidates = [(rate, part) for part, rate in itertools.product(parts, rates_of(config))]
    chosen: Chosen = {way: {} for way in ways_of(config)}
    for arm in config["arms"]:
        scores = {candidate: means(config, results, arm, *candidate) for candidate in candidates}
        for way, choices in chosen.items():
            by_candidate = {candidate: score[way] for candidate, score in scores.items()}
            # The first of the highest.
            choices[arm] = max(by_candidate, key=by_candidate.get)
    return chosen


def means(config: dict, results: Path, arm: str, rate: float | None, part: int) -> dict[str, list[float]]:
    """For each way of choosing, a checkpoint's means of what decides."""
    runs = [run_of(arm, seed, rate) for seed in config["seeds"]]
    answers = [
        read_answers(results, asked_at(run, evaluation, part)) for run in runs for evaluation in config["evaluations"]
    ]
    return {
        # Rounded, so that equals are equal in whatever order they were summed.
        way: [round(float(np.mean([about(one, people)[measure].mean() for one in answers])), 6) for measure in DECIDES]
        for way, people in ways_of(config).items()
    }


def asked(config: dict, chosen: Chosen) -> Iterator[tuple[str, str, dict[str, list[str]]]]:
    """For each evaluation and way of choosing its heading, the evaluation, and each arm's folders, seed by seed."""
    for evaluation, (way, choices) in itertools.product(config["evaluations"], chosen.items()):
        folders = {
            arm: [asked_at(run_of(arm, seed, rate), evaluation, part) for seed in config["seeds"]]
            for arm, (rate, part) in choices.items()
        }
        yield ", ".join(filter(None, (evaluation, way))), evaluation, folders
