"""A table's pictures: scores by arm, learning curves, one text under each arm's keep-probabilities."""

import itertools
import math
from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import pandas as pd
from matplotlib import pyplot

from utils.artifacts import whole_file
from workflow.results import asked_at, read_study
from workflow.selection import Chosen
from workflow.table import MEASURES, measured, run_of

# The arms that the text speaks of, each by its colour, its dashes and its mark, so that they differ in grey as well.
HIGHLIGHTED = {
    "none": {"color": "#000000", "linestyle": "-", "marker": "o"},
    "random": {"color": "#0072b2", "linestyle": "--", "marker": "s"},
    "attention": {"color": "#009e73", "linestyle": "-.", "marker": "D"},
    "attention_large": {"color": "#56b4e9", "linestyle": ":", "marker": "v"},
    "difference": {"color": "#d55e00", "linestyle": "-", "marker": "^"},
}

# The marks of the other arms, which are thin and grey.
MARKS = "<>pX*Pd12|"


def save(figure, path: Path) -> None:
    with whole_file(path) as aside:
        figure.savefig(aside, format="png", dpi=110, bbox_inches="tight")
    pyplot.close(figure)


def grid(count: int, most: int, sharey: bool = False) -> tuple:
    """A figure and its `count` panels, at most `most` in a row."""
    columns = min(count, most)
    rows = math.ceil(count / columns)
    size = 5 * columns, 4 * rows
    figure, panels = pyplot.subplots(rows, columns, figsize=size, sharey=sharey, squeeze=False, layout="constrained")
    for panel in panels.flat[count:]:
        panel.remove()
    return figure, panels.flat[:count]


def scores(table: pd.DataFrame, config: dict, path: Path) -> None:
    """Each arm's mean with its interval: a panel for each evaluation (and way of choosing) and each of the table's
    measures, in rows of as many as there are measures."""
    found = set(zip(table["evaluation"], table["measure"], strict=True))
    pairs = itertools.product(table["evaluation"].unique(), config["measures"])
    pairs = [pair for pair in pairs if pair in found]
    figure, panels = grid(len(pairs), len(config["measures"]), sharey=True)
    for panel, (evaluation, measure) in zip(panels, pairs, strict=True):
        shown = table[(table["evaluation"] == evaluation) & (table["measure"] == measure)]
        shown = shown[shown["arm"].isin(config["arms"])].iloc[::-1]
        spread = np.abs(shown[["low", "high"]].to_numpy().T - shown["mean"].to_numpy())
        panel.errorbar(shown["mean"], shown["arm"], xerr=spread, fmt="o", capsize=3)
        panel.set_title(evaluation)
        panel.set_xlabel(MEASURES[measure][0])
        panel.grid(axis="x", alpha=0.3)
    save(figure, path)


def curves(config: dict, results: Path, runs: dict[str, list[dict]], chosen: Chosen, path: Path) -> None:
    """By share of the budget, means over the seeds: the table's measures (of all who were asked about; left out where
    one checkpoint makes no curve), and the training loss; at the learning rates that the first way of choosing has, as
    `runs` are."""
    rates = {arm: rate for arm, (rate, _) in next(iter(chosen.values())).items()}
    pairs = measured(config, results) if config["checkpoints"] > 1 else []
    records = read_study(results).records

    def average(asked: str, measure: str) -> float:
        return records[f"{asked}/metrics.json"]["average"][measure]

    figure, panels = grid(len(pairs) + 1, len(config["measures"]))
    figure.set_figwidth(figure.get_figwidth() + 2.5)  # for the legend
    parts = range(1, config["checkpoints"] + 1)
    for panel, (evaluation, measure) in zip(panels, pairs, strict=False):
        for arm in runs:
            seed_scores = [
                [average(asked_at(run_of(arm, seed, rates[arm]), evaluation, part), measure) for part in parts]
                for seed in config["seeds"]
            ]
            means = np.mean(seed_scores, axis=0)
            panel.plot([part / config["checkpoints"] for part in parts], means, **line_of(arm, runs))
        panel.set_title(f"{evaluation}: {MEASURES[measure][0]}")
    for arm, arm_runs in runs.items():
        # Seeds whose texts are a little shorter take a few steps more.
        count = min(len(run["loss"]) for run in arm_runs)
        losses = np.array([run["loss"][:count] for run in arm_runs]).reshape(len(arm_runs), count, 2)
        shares = losses[0, :, 0] / arm_runs[0]["steps"]
        panels[-1].plot(shares, losses[:, :, 1].mean(axis=0), markevery=0.2, **line_of(arm, runs))
    panels[-1].set_title("training loss")
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    for panel in panels:
        panel.set_xlabel(f"share of the budget of {'epochs' if config.get('epochs') else 'tokens'}")
        panel.set_xlim(0, 1.03)
    save(figure, path)


def line_of(arm: str, arms: Iterable[str]) -> dict:
    """How pyplot draws an arm."""
    if arm in HIGHLIGHTED:
        return {"label": arm, "linewidth": 2, "markersize": 5, "zorder": 3, **HIGHLIGHTED[arm]}
    others = [other for other in arms if other not in HIGHLIGHTED]
    mark = MARKS[others.index(arm) % len(MARKS)]
    return {"label": arm, "linewidth": 1, "markersize": 6, "color": "#909090", "marker": mark, "zorder": 2}


def keep_probabilities(kept: dict, path: Path) -> None:
    """A row of the text's tokens for each arm, the darker the likelier to be dropped."""
    arms, words = kept["arms"], kept["tokens"]
    figure, panel = pyplot.subplots(figsize=(0.22 * len(words) + 2, 0.35 * len(arms) + 1.5))
    picture = panel.imshow(np.array(list(arms.values())), cmap="Greys_r", vmin=0, vmax=1, aspect="auto")
    panel.set_xticks(range(len(words)), [word.replace(" ", "␣") for word in words], rotation=90, fontsize=8)
    panel.set_yticks(range(len(arms)), list(arms))
    figure.colorbar(picture, label="keep-probability")
    save(figure, path)
