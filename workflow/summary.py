"""A table and its pictures, from the runs of results/<table>/: table.md, .csv, .tex, three PNG files."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd

from utils.artifacts import whole_file
from utils.errors import InputError
from workflow import intervals, pictures
from workflow.results import read_study
from workflow.selection import EVERYBODY, Chosen, asked, choose, read_answers, read_scores, reported
from workflow.table import MEASURES, asked_about, epochs_of, measured, run_of

# pandas escapes what stands in cells, not in captions.
LATEX = str.maketrans({"%": "\\%", "_": "\\_"})

# A table for people to read: each arm's cells, by column, as text.
Cells = dict[str, dict[str, str]]


def read_runs(config: dict, results: Path, chosen: Chosen) -> dict[str, list[dict]]:
    """Each arm's run.json, seed by seed, at the learning rate that the first way of choosing has."""
    records, first = read_study(results).records, next(iter(chosen.values()))
    return {
        arm: [records[f"{run_of(arm, seed, rate)}/run.json"] for seed in config["seeds"]]
        for arm, (rate, _) in first.items()
    }


def collect(config: dict, results: Path, chosen: Chosen) -> pd.DataFrame:
    """A row for each arm, evaluation and measure: mean and interval, and the same of its difference to each of the
    table's `against`, with a p-value."""
    against = config["against"]
    rows = []
    for heading, evaluation, folders in asked(config, chosen):
        untrained = read_scores(results, f"untrained/{evaluation}", reported(config))
        scores = {}
        for arm, arm_folders in folders.items():
            seed_scores = []
            for folder in arm_folders:
                seed_scores.append(read_scores(results, folder, reported(config)))
                if not seed_scores[-1].index.equals(untrained.index):
                    about = asked_about(config, evaluation)
                    raise InputError(
                        f"{results}: {folder} and untrained were asked about different {about}; to redo it: "
                        f"python -m workflow.results forget {results.name} {folder}"
                    )
            scores[arm] = {measure: np.stack([one[measure] for one in seed_scores]) for measure in MEASURES}
        for measure in MEASURES:
            if np.isnan(untrained[measure]).any():
                continue  # evaluated without choices
            rows.append(
                {"evaluation": heading, "measure": measure, "arm": "untrained", "mean": untrained[measure].mean()}
            )
            for arm, arm_scores in scores.items():
                row = {"evaluation": heading, "measure": measure, "arm": arm, "mean": arm_scores[measure].mean()}
                row["low"], row["high"] = intervals.interval(arm_scores[measure])
                for number, other in enumerate(against):
                    # Two that are both tested against are compared once.
                    if arm not in against[: number + 1]:
                        row |= minus(other, arm_scores[measure], scores[other][measure])
                rows.append(row)
    return pd.DataFrame(rows)


def what_was_trained_on(config: dict, runs: dict[str, list[dict]]) -> pd.DataFrame:
    """A row for each arm: what share was dropped, and how much it was trained on (means over the seeds)."""

    def mean(values) -> float:
        return float(np.mean(list(values)))

    shares = {"characters dropped, %": "characters_blanked"}
    if all("tokens_dropped" in run for arm_runs in runs.values() for run in arm_runs):  # earlier ones lack it
        shares = {"tokens dropped, %": "tokens_dropped"} | shares
    return pd.DataFrame(
        {
            "arm": arm,
            **{name: 100 * mean(run[share] for run in arm_runs) for name, share in shares.items()},
            "tokens a text": mean(run["tokens_a_text"] for run in arm_runs),
            "steps": mean(run["steps"] for run in arm_runs),
            "tokens trained on": mean(run["steps"] * run["texts_a_step"] * run["tokens_a_text"] for run in arm_runs),
            # None is logged in fewer steps than trainer.logging_steps.
            "last loss": mean(run["loss"][-1][1] if run["loss"] else np.nan for run in arm_runs),
        }
        for arm, arm_runs in runs.items()
    )


def shown(scores: pd.DataFrame, config: dict) -> dict[str, Cells]:
    """For people to read, by heading: for each evaluation (and way of choosing) all means, and for each of the table's
    measures the differences, their cells as text."""
    tables = {}
    for evaluation in scores["evaluation"].unique():
        evaluation_scores = scores[scores["evaluation"] == evaluation]
        means: Cells = {}
        for row in evaluation_scores.to_dict("records"):
            name, digits = MEASURES[row["measure"]]
            spread = "" if np.isnan(row["low"]) else f" [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
            means.setdefault(row["arm"], {})[name] = f"{row['mean']:.{digits}f}{spread}"
        tables[evaluation] = means
        for measure in config["measures"]:
            name, digits = MEASURES[measure]
            measure_scores = evaluation_scores[evaluation_scores["measure"] == measure]
            if measure_scores.empty:
                continue  # evaluated without choices
            differences = {
                row["arm"]: {f"minus {other}": difference(row, other, digits) for other in config["against"]}
                for row in measure_scores.to_dict("records")
            }
            compared = {arm: cells for arm, cells in differences.items() if any(cells.values())}
            tables[f"{evaluation}, differences of {name}"] = compared
    return tables


def by_field(config: dict, results: Path, chosen: Chosen) -> dict[str, Cells]:
    """For people to read, by heading: each arm's mean in each field, and its differences to each of the table's
    `against`, their cells as text."""
    tables = {}
    for (heading, evaluation, folders), measure in itertools.product(asked(config, chosen), config["measures"]):
        if (evaluation, measure) not in measured(config, results):
            continue
        name, digits = MEASURES[measure]
        scores = {
            arm: scores_by_field(results, arm_folders, measure, reported(config))
            for arm, arm_folders in ({"untrained": [f"untrained/{evaluation}"]} | folders).items()
        }
        tables[f"{heading}, {name} by field"] = {
            arm: {field: f"{values.mean():.{digits}f}" for field, values in fields.items()}
            for arm, fields in scores.items()
        }
        for number, other in enumerate(config["against"]):
            tables[f"{heading}, {name} by field, minus {other}"] = {
                arm: {
                    field: difference(minus(other, values, scores[other][field]), other, digits)
                    for field, values in fields.items()
                }
                for arm, fields in scores.items()
                if arm not in ("untrained", *config["against"][: number + 1])
            }
    return tables


def scores_by_field(
    results: Path, folders: list[str], measure: str, people: slice = EVERYBODY
) -> dict[str, np.ndarray]:
    """Each field's scores [seeds, people]: a folder for each seed, the people (or paragraphs) that have the field, by
    name."""
    tables = [
        read_answers(results, folder, people).pivot_table(measure, "name", "field", sort=False).sort_index()
        for folder in folders
    ]
    return {field: np.stack([table[field].dropna() for table in tables]) for field in tables[0]}


def how_asked(config: dict, results: Path) -> str:
    """For people to read: how many were asked about, and what the intervals and p-values are over."""
    kinds = {evaluation: asked_about(config, evaluation) for evaluation in config["evaluations"]}
    counts = [f"{len(read_scores(results, f'untrained/{evaluation}'))} {kind}" for evaluation, kind in kinds.items()]
    asked, over = ", ".join(dict.fromkeys(counts)), " or ".join(dict.fromkeys(kinds.values()))
    about_paragraphs = ""
    if "paragraphs" in kinds.values():
        about_paragraphs = " about. A paragraph's score is the mean over its questions, and each paragraph counts alike"
    return (
        f"{len(config['seeds'])} seeds, {asked} asked{about_paragraphs}. In brackets: 95 % intervals, by "
        f"bootstrap over {over} and seeds together; p: paired permutation tests over {over}, two-sided, not corrected "
        "for their number."
    )


def how_chosen(config: dict, results: Path) -> str:
    """For people to read: of a table in epochs, who is reported and what was chosen on whom."""
    first = next(iter(config["evaluations"]))
    rates, about = ", ".join(map(str, config["learning_rates"])), asked_about(config, first)
    others = len(read_scores(results, f"untrained/{first}")) - config["reported"]
    own = [f", {arm} for {epochs_of(config, arm)}" for arm, keys in config["arms"].items() if "epochs" in (keys or {})]
    often = "once" if config["checkpoints"] == 1 else f"{config['checkpoints']} times, at equal distances"
    who, which, over = "people of the dataset", "who", "people and fields"
    if about == "paragraphs":
        who, which, over = "paragraphs", "that", "questions"
    return (
        f"Scores are of the first {config['reported']} {who}; the {others} others {which} are asked about "
        f"are trained on as well. Each arm was trained for {config['epochs']} epochs{''.join(own)}, at each learning "
        f"rate ({rates}), and asked {often}. What stands here is its "
        f"checkpoint with the highest exact match, mean over evaluations, seeds, {over} (among equals: the "
        "highest F1, then the fewest epochs, then the learning rate listed first), chosen in two ways: by the answers "
        f"about the others, and by those about the reported {about} themselves, as the paper seems to do. Scores that "
        "were chosen on the reported are too high."
    )


def what_was_chosen(config: dict, chosen: Chosen) -> Cells:
    """For people to read: each arm's learning rate and epochs, by way of choosing."""
    parts = {arm: epochs_of(config, arm) // config["checkpoints"] for arm in config["arms"]}
    return {
        arm: {way: f"{choices[arm][0]}, epoch {choices[arm][1] * part}" for way, choices in chosen.items()}
        for arm, part in parts.items()
    }


def frame(cells: Cells) -> pd.DataFrame:
    """A row for each arm."""
    return pd.DataFrame.from_dict(cells, orient="index").fillna("").rename_axis("arm").reset_index()


def minus(other: str, scores: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """The difference to another arm, with its interval and p-value; nothing where one person or paragraph alone has the
    field: that has neither."""
    if scores.shape[1] == 1:
        return {}
    low, high = intervals.interval(scores - others)
    p = intervals.p_value(scores, others)
    name = f"minus {other}"
    return {name: float((scores - others).mean()), f"{name}, low": low, f"{name}, high": high, f"{name}, p": p}


def difference(row: dict, other: str, digits: int) -> str:
    """With its interval and p-value; nothing where an arm is not compared with this one."""
    by, low, high, p = (row.get(f"minus {other}{suffix}", np.nan) for suffix in ("", ", low", ", high", ", p"))
    return "" if np.isnan(p) else f"{by:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}], p = {p:.4f}"


def summarize(config: dict, results: Path) -> None:
    """Write everything."""
    chosen = choose(config, results)
    runs = read_runs(config, results, chosen)
    scores = collect(config, results, chosen)
    trained = what_was_trained_on(config, runs)
    parts, latex = [f"# {config['table']}\n"], []
    parts.append(
        f"{config['trained']} trained, {config['large']} the large model, {config['small']} the small one; "
        f"{how_asked(config, results)}\n"
    )
    if config.get("epochs"):
        parts.append(f"{how_chosen(config, results)}\n")
    tables = shown(scores, config) | by_field(config, results, chosen)
    if config.get("epochs"):
        tables["What was chosen"] = what_was_chosen(config, chosen)
    # No cells: nothing is compared in it.
    framed = {heading: frame(cells) for heading, cells in tables.items() if cells}
    for heading, table in framed.items():
        parts.append(f"## {heading}\n\n{table.to_markdown(index=False, disable_numparse=True)}\n")
        latex.append(table.to_latex(index=False, escape=True, caption=f"{config['table']}: {heading}".translate(LATEX)))
    parts.append(f"## What was trained on\n\n{trained.to_markdown(index=False, floatfmt=',.1f')}\n")
    if config.get("epochs"):
        parts.append("Of whole runs at the learning rate that was chosen on the others.\n")
    latex.append(trained.to_latex(index=False, escape=True, float_format="%.1f", caption="What was trained on"))
    for name, content in (("table.md", "\n".join(parts)), ("table.tex", "\n".join(latex))):
        with whole_file(results / name) as aside:
            aside.write_text(content, encoding="utf-8")
    with whole_file(results / "table.csv") as aside:
        scores.to_csv(aside, index=False)
    pictures.scores(scores, config, results / "scores.png")
    pictures.curves(config, results, runs, chosen, results / "curves.png")
    pictures.keep_probabilities(
        json.loads((results / "keep_probabilities.json").read_text(encoding="utf-8")),
        results / "keep_probabilities.png",
    )
