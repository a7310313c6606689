"""A table's pictures: scores by arm, learning curves, one text under each arm's keep-probabilities."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import pandas as pd
from matplotlib import pyplot

from utils.artifacts import whole_file

LETTERS_A_LINE = 110


def save(figure, path: Path) -> None:
    with whole_file(path) as aside:
        figure.savefig(aside, format="png", dpi=110, bbox_inches="tight")
    pyplot.close(figure)


def scores(table: pd.DataFrame, config: dict, path: Path) -> None:
    """Each arm's mean with its interval, of the table's measure: one panel an evaluation."""
    table = table[table["measure"] == config["measure"]]
    evaluations = list(config["evaluations"])
    figure, panels = pyplot.subplots(1, len(evaluations), figsize=(5 * len(evaluations), 4), squeeze=False, sharey=True)
    for panel, evaluation in zip(panels[0], evaluations, strict=True):
        of_evaluation = table[table["evaluation"] == evaluation].iloc[::-1]
        arms, means = of_evaluation["arm"], of_evaluation["mean"]
        spread = np.abs(of_evaluation[["low", "high"]].to_numpy().T - means.to_numpy())
        panel.errorbar(means, arms, xerr=np.nan_to_num(spread), fmt="o", capsize=3)
        panel.set_title(evaluation)
        panel.set_xlabel(config["measure"].replace("_", " "))
        panel.grid(axis="x", alpha=0.3)
    save(figure, path)


def curves(config: dict, results: Path, runs: dict[str, list[dict]], path: Path) -> None:
    """By share of the budget, means over the seeds: the table's measure, and the training loss."""
    evaluations = list(config["evaluations"])
    figure, panels = pyplot.subplots(1, len(evaluations) + 1, figsize=(5 * (len(evaluations) + 1), 4), squeeze=False)
    parts = range(1, config["checkpoints"] + 1)
    for panel, evaluation in zip(panels[0], evaluations, strict=False):
        begin = average(results / "untrained" / evaluation, config["measure"])
        for arm in runs:
            means = [
                np.mean(
                    [
                        average(results / arm / f"seed-{seed}" / evaluation / str(part), config["measure"])
                        for seed in config["seeds"]
                    ]
                )
                for part in parts
            ]
            panel.plot([0, *(part / config["checkpoints"] for part in parts)], [begin, *means], marker=".", label=arm)
        panel.set_title(f"{evaluation}: {config['measure'].replace('_', ' ')}")
        panel.set_xlabel("share of the budget of tokens")
    panel = panels[0][-1]
    for arm, of_arm in runs.items():
        # Seeds whose texts are a little shorter take a few steps more.
        count = min(len(run["loss"]) for run in of_arm)
        losses = np.array([run["loss"][:count] for run in of_arm])
        panel.plot(losses[0, :, 0] / of_arm[0]["steps"], losses[:, :, 1].mean(axis=0), label=arm)
    panel.set_title("training loss")
    panel.set_xlabel("share of the budget of tokens")
    panel.legend(fontsize="small")
    save(figure, path)


def average(folder: Path, measure: str) -> float:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["average"][measure]


def keep_probabilities(kept: dict, path: Path) -> None:
    """A row of the text's tokens for each arm, the darker the likelier to be dropped."""
    arms, words = kept["arms"], kept["tokens"]
    figure, panel = pyplot.subplots(figsize=(0.22 * len(words) + 2, 0.35 * len(arms) + 1.5))
    picture = panel.imshow(np.array(list(arms.values())), cmap="Greys_r", vmin=0, vmax=1, aspect="auto")
    panel.set_xticks(range(len(words)), [word.replace(" ", "␣") for word in words], rotation=90, fontsize=8)
    panel.set_yticks(range(len(arms)), list(arms))
    figure.colorbar(picture, label="keep-probability")
    save(figure, path)
