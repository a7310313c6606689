"""The paper's Figures 1, 2 and 3, each as a picture and as the numbers that it shows; and figures.md, which counts how
often the name is among the first three.

Figure 1: exact match and F1 after training on the plain texts (the arm `none`) against the field's distance from the
name, a line a model: the words between the name's last and the field's first, split at white space, so that it is the
same for every tokenizer; a mean over the people. Of a table in epochs it is the checkpoint chosen on the people who are
not reported, and the reported people's scores. The paper's lines are its Table 1; how far its fields lie from the
name is not said, so they stand at the distances of our texts, whose fields come in the same order.

Figures 2 and 3: what holds ranks 1 to 10 of what the token just before a field attends to, of either model and of their
difference (workflow/ranks.py).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from utils import biography
from utils.artifacts import whole_file, write_csv
from utils.errors import InputError
from workflow import intervals, ranks
from workflow.pictures import pyplot
from workflow.ranks import FIELDS, RANKS
from workflow.results import asked_at
from workflow.selection import EVERYBODY, choose, reported
from workflow.summary import scores_by_field
from workflow.table import MEASURES, PUBLISHED, run_of


class Look(NamedTuple):
    colour: str
    hatch: str
    hatch_colour: str


# Colours for what is of a field (Okabe and Ito's, which the colour-blind tell apart); black, grey and white for the
# rest. What would look alike without colour has a hatch of its own.
LOOKS = {
    "<name>": Look("#D55E00", "", "white"),
    "<date>": Look("#0072B2", "", "white"),
    "<city>": Look("#F0E442", "", "black"),
    "<university>": Look("#009E73", "////", "white"),
    "<major>": Look("#CC79A7", "....", "black"),
    "<company>": Look("#56B4E9", "xxxx", "black"),
    "Text:": Look("#000000", "", "white"),
}
WHITE, DARK = "#FFFFFF", "#404040"
WORD_LOOKS = [Look(WHITE, hatch, "black") for hatch in ("\\\\\\\\", "----", "||||", "++++", "ooo", "***")]
WORD_LOOKS += [Look(DARK, hatch, "white") for hatch in ("**", "--", "\\\\", "oo")]
REST = {"other words": Look("#A6A6A6", "", "white"), "no token": Look(WHITE, "", "white")}

CONDITION_TITLES = {"plain": "texts as they are", "text_first": "“Text: ” put first"}

# Of Figure 1: ours in colour, the paper's in grey.
OURS = [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D")]
PAPERS = ["o:", "o-", "D-.", "D--"]

# Inches: the width of a page's text, so that the type stays as large in print as it is set here.
WIDTH = 7.0
TYPE = {"font.size": 7, "axes.titlesize": 8, "figure.titlesize": 9, "hatch.linewidth": 0.6}
DPI = 300


def looks(words: list[str]) -> dict[str, Look]:
    """What each thing looks like, in the order in which they are stacked."""
    return LOOKS | dict(zip(words, WORD_LOOKS, strict=False)) | REST


def save(figure, path: Path) -> None:
    """For print; in 64 colours, which is a third of the bytes and looks the same."""
    with whole_file(path) as aside:
        figure.savefig(aside, format="png", dpi=DPI)
        Image.open(aside).convert("RGB").quantize(64).save(aside, format="png", optimize=True, dpi=(DPI, DPI))
    pyplot.close(figure)


@pyplot.rc_context(TYPE)
def composition(shares: pd.DataFrame, words: list[str], title: str):
    """The figure: a row for each condition, a panel for each field, a stacked bar for each rank."""
    thing_looks = looks(words)
    conditions = list(dict.fromkeys(shares["condition"]))
    size = (WIDTH, 1.9 * len(conditions) + 1.6)
    figure, panels = pyplot.subplots(
        len(conditions), len(FIELDS), figsize=size, squeeze=False, sharey=True, layout="constrained"
    )
    drawn = {}
    for row, condition in zip(panels, conditions, strict=True):
        for panel, field in zip(row, FIELDS, strict=True):
            panel_shares = shares[(shares["condition"] == condition) & (shares["field"] == field)]
            table = panel_shares.pivot(index="what", columns="rank", values="share").fillna(0.0)
            table = table.reindex(columns=range(1, RANKS + 1), fill_value=0.0)
            bottom = np.zeros(RANKS)
            for thing, look in thing_looks.items():
                if thing not in table.index:
                    continue
                bars = panel.bar(
                    table.columns,
                    table.loc[thing],
                    width=0.9,
                    bottom=bottom,
                    color=look.colour,
                    hatch=look.hatch,
                    hatchcolor=look.hatch_colour,
                    edgecolor="#C8C8C8" if thing == "no token" else "black",
                    linewidth=0.4,
                    label=thing,
                )
                drawn.setdefault(thing, bars)
                bottom += table.loc[thing].to_numpy()
            panel.set_xticks(range(1, RANKS + 1, 3))
            panel.tick_params(pad=2)
            panel.set_xlim(0.4, RANKS + 0.6)
            panel.set_ylim(0, 100)
        row[0].set_ylabel(f"{CONDITION_TITLES[condition]}\nshare of the people, %")
    for panel, field in zip(panels[0], FIELDS, strict=True):
        panel.set_title(f"before the {field}")
    for panel in panels[-1]:
        panel.set_xlabel("rank (1: highest)")
    figure.suptitle(title)
    # As they are stacked, the lowest last.
    shown = [thing for thing in reversed(thing_looks) if thing in drawn]
    names = [
        "(no token left)" if thing == "no token" else thing if thing[0] == "<" or thing in REST else f"“{thing}”"
        for thing in shown
    ]
    figure.legend(
        [drawn[thing] for thing in shown],
        names,
        loc="outside lower center",
        title="the rank is held by",
        ncols=6,
        handleheight=1.7,
        handlelength=2.4,
        frameon=False,
    )
    return figure


def distances(dataset: str, people: slice = EVERYBODY) -> dict[str, float]:
    """How many words lie between the name and each field, a mean over these people."""
    found = {field: [] for field in FIELDS}
    for row, tagged in enumerate(list(biography.read_texts(dataset))[people], start=1):
        plain, spans = biography.field_spans(tagged)
        for field, counts in found.items():
            if "name" not in spans or field not in spans or spans[field][0] < spans["name"][1]:
                raise InputError(f"{dataset}: row {row} has no <{field}> after a <name>, which Figure 1 measures from")
            counts.append(len(plain[spans["name"][1] : spans[field][0]].split()))
    return {field: float(np.mean(counts)) for field, counts in found.items()}


def plain_scores(config: dict, results: Path, evaluation: str, line: str) -> list[dict]:
    """Of a table's arm `none`: a row for each field and measure (exact match, F1), with the mean and its 95 % interval
    over reported people and seeds."""
    people = reported(config)
    apart = distances(config["dataset"], people)
    # The first way: the last checkpoint, or the one chosen on the others.
    choices, *_ = choose(config | {"arms": {"none": config["arms"]["none"]}}, results).values()
    rate, part = choices["none"]
    asked = [asked_at(run_of("none", seed, rate), evaluation, part) for seed in config["seeds"]]
    scores = {measure: scores_by_field(results, asked, measure, people) for measure in ("exact_match", "f1")}
    rows = []
    for field in FIELDS:
        for measure, by_field in scores.items():
            low, high = intervals.interval(by_field[field])
            row = {"line": line, "field": field, "words_from_name": apart[field], "measure": measure}
            rows.append(row | {"mean": float(by_field[field].mean()), "low": low, "high": high})
    return rows


def paper_scores(apart: dict[str, float]) -> list[dict]:
    """The paper's Table 1 as rows of the same kind, without intervals, which it does not give."""
    table = pd.read_csv(PUBLISHED).query("table == 1")
    return [
        {"line": f"{model} (the paper)", "field": row["field"], "words_from_name": apart[row["field"]]}
        | {"measure": measure, "mean": round(100 * row[measure], 6), "low": None, "high": None}
        for model, model_rows in table.groupby("model", sort=False)
        for measure in ("exact_match", "f1")
        for row in model_rows.to_dict("records")
    ]


@pyplot.rc_context(TYPE)
def against_distance(ours: list[dict], papers: list[dict]):
    """Figure 1: a panel for each measure, a line a model."""
    figure, panels = pyplot.subplots(1, 2, figsize=(WIDTH, 4.0), sharex=True, sharey=True, layout="constrained")
    handles = {}
    for panel, measure in zip(panels, ("exact_match", "f1"), strict=True):
        for rows, kinds in ((papers, PAPERS), (ours, OURS)):
            lines = list(dict.fromkeys(row["line"] for row in rows))
            for number, line in enumerate(lines):
                points = [row for row in rows if (row["line"], row["measure"]) == (line, measure)]
                x, y = ([row[key] for row in points] for key in ("words_from_name", "mean"))
                if rows is papers:
                    style = kinds[number % len(kinds)]
                    (handles[line],) = panel.plot(x, y, style, color="#5F5F5F", linewidth=1, markersize=3, label=line)
                    continue
                colour, marker = kinds[number % len(kinds)]
                # An interval by bootstrap may lie beside its mean by rounding.
                spread = [
                    [max(row["mean"] - row["low"], 0.0) for row in points],
                    [max(row["high"] - row["mean"], 0.0) for row in points],
                ]
                handles[line] = panel.errorbar(
                    x, y, yerr=spread, color=colour, marker=marker, markersize=4, linewidth=2, capsize=2, label=line
                )
        panel.set_title(MEASURES[measure][0].removesuffix(", %"), fontweight="bold")
        panel.set_ylim(-3, 103)
        panel.grid(axis="y", alpha=0.3)
        distance = {row["field"]: row["words_from_name"] for row in papers}
        top = panel.secondary_xaxis("top")
        top.set_xticks(list(distance.values()), list(distance), rotation=40, ha="left", rotation_mode="anchor")
    panels[0].set_ylabel("per cent, with 95 % intervals")
    for panel in panels:
        panel.set_xlabel("words between the name and the field")
    figure.suptitle(
        "Figure 1: scores after plain fine-tuning, by the field's distance from the name\n"
        "Ours: means over seeds and reported people. The paper's scores are drawn at the distances of our texts."
    )
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def percent(row) -> str:
    return f"{row.share:.0f} [{row.low:.0f}, {row.high:.0f}]"


def page(top: pd.DataFrame, names: dict[str, str]) -> str:
    """figures.md: the table that counts the name."""
    written = (
        "# Figures 2 and 3: the name among the first three\n\nIn brackets: 95 % intervals, by bootstrap over people.\n"
    )
    for condition in dict.fromkeys(top["condition"]):
        condition_rows = top[top["condition"] == condition]
        rows = {}
        for row in condition_rows.itertuples():
            cells = rows.setdefault(row.field, {"just before the": row.field})
            cells[names[row.attention]] = percent(row)
            # The same for both models, unless their tokenizers differ; the difference has the smaller one's.
            cells["in random order"] = f"{row.random_order:.0f}"
        columns = ["just before the", *names.values(), "in random order"]
        table = pd.DataFrame(list(rows.values()))[columns].to_markdown(index=False, disable_numparse=True)
        written += f"\n## the name's share of the first three places, %, {condition}\n\n{table}\n"
    return written


def figures(config: dict, results: Path) -> None:
    """Everything of results/figures/, from ranks_*.csv and the tables' committed answers."""
    found = ranks.read_ranks(results)
    words = ranks.words(found, len(WORD_LOOKS))
    names = {size: Path(config[size]).name for size in ("small", "large")}
    names["difference"] = f"{names['large']} minus {names['small']}"
    shares = ranks.shares(found, words)
    people = f"mean over layers and heads; {found['text'].nunique()} people; a special token at the start is not ranked"
    attends = f"what the token just before a fact attends to\n{people}"
    titles = {
        "small": f"Figure 2, small model ({names['small']}): {attends}",
        "large": f"Figure 2, large model ({names['large']}): {attends}",
        "difference": f"Figure 3, the difference ({names['difference']}):\n"
        f"what the token just before a fact attends to more in the large than in the small model\n{people}",
    }
    for attention, name in (("small", "figure_2_small"), ("large", "figure_2_large"), ("difference", "figure_3")):
        figure = composition(shares[shares["attention"] == attention], words, titles[attention])
        save(figure, results / f"{name}.png")
    for name, attentions in (("figure_2", ("small", "large")), ("figure_3", ("difference",))):
        shown_shares = shares[shares["attention"].isin(attentions)].assign(
            attention=lambda rows: rows["attention"].map(names)
        )
        write_csv(results / f"{name}.csv", shown_shares.round(2).to_dict("records"))

    ours = []
    for table, shown in (config["tables"] or {}).items():
        table_config = yaml.safe_load(Path("conf/tables", f"{table}.yaml").read_text(encoding="utf-8"))
        ours += plain_scores(table_config, results.parent / table, shown["evaluation"], shown["line"])
    papers = paper_scores(distances(config["dataset"]))
    save(against_distance(ours, papers), results / "figure_1.png")
    rounded = [
        {key: round(cell, 2) if isinstance(cell, float) else cell for key, cell in row.items()} for row in ours + papers
    ]
    write_csv(results / "figure_1.csv", rounded)

    top = ranks.top_three(found)
    write_csv(results / "name_in_top_three.csv", top.round(2).to_dict("records"))
    with whole_file(results / "figures.md") as aside:
        aside.write_text(page(top, names), encoding="utf-8")
