"""The tables of README.md and results/README.md, between `<!-- results/NAME/table.md: SECTION -->` and `<!-- end -->`;
two of our own, `methods` and `studies`, likewise, with a CSV file in place of the Markdown.

python -m workflow.readme
"""

import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from utils.artifacts import whole_file
from workflow.paper import NOT_RUN
from workflow.selection import OTHERS
from workflow.table import MEASURES

ROOT = Path(__file__).resolve().parent.parent

PAGES = [ROOT / "README.md", ROOT / "results/README.md"]

MARKED = re.compile(r"(<!-- (\S+): ([^\n]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


class Compared(NamedTuple):
    """What results/README.md's first table compares: the evaluation, and the arms. Where a study has no arm
    `attention_small`, its `attention` is the small model's."""

    evaluation: str
    difference: str = "difference"
    random: str = "random"
    small: str | None = "attention_small"
    large: str | None = "attention_large"


CHOSEN = f"questions, {OTHERS}"

STUDIES = {
    "paper_qwen_0.5b": Compared(CHOSEN, small="attention", large=None),
    "paper_smollm2": Compared(CHOSEN),
    "paper_paragraphs_smollm2": Compared(CHOSEN, small="attention", large=None),
    "paper_squad_smollm2": Compared(CHOSEN, small="attention", large=None),
    "biographies_cpu": Compared("own_words"),
    "originals_smollm2": Compared(
        "questions", "difference_delete_originals", "random_delete_originals", small=None, large=None
    ),
    "biographies_scratch": Compared("paper"),
    "biographies_scratch_departures": Compared("paper"),
}


def section(markdown: str, heading: str) -> str:
    """What follows `## heading`, up to the next heading."""
    (found,) = re.findall(rf"^## {re.escape(heading)}\n+(.*?)\s*(?=^#|\Z)", markdown, re.DOTALL | re.MULTILINE)
    return found


# README.md's first table: each method, and which arm it is.
METHODS = {
    "plain texts": "none",
    "random dropout": "random",
    "one model's attention": "attention",
    "the difference": "difference",
}

FIELDS = ["university", "company"]


def methods() -> str:
    """Exact match / F1 in per cent: of the paper's Llama 3 8B and of our Qwen2.5-Coder 0.5B, as in Table 2, and of the
    latter's five fields; our exact match with intervals."""
    paper = pd.read_csv(ROOT / "results/paper/table2_numbers.csv").set_index(["model", "arm", "field"])
    study = pd.read_csv(ROOT / "results/paper_qwen_0.5b/table.csv").set_index(["evaluation", "arm"])
    rows = []
    for method, arm in METHODS.items():
        given = paper.loc[("Llama 3 8B", arm, FIELDS[0])].iloc[0][["alpha", "beta"]].dropna()
        row = {"trained on": method, "alpha, beta": ", ".join(map(str, given))}
        if arm == "random":  # the scripts' alpha is the share that is kept
            row["alpha, beta"] += " deleted"
        for field in FIELDS:
            published = paper.loc[("Llama 3 8B", arm, field)].set_index("measure")["published"]
            row[f"paper: {field}"] = both(published)
        for field in FIELDS:
            ours = (
                paper.loc[("Qwen2.5-Coder 0.5B", arm, field)].set_index("measure").filter(like="chosen on the others")
            )
            row[f"here: {field}"] = with_interval(ours)
        five_fields = study.loc[("questions, chosen on the others", arm)].set_index("measure")
        row["here: five fields"] = with_interval(five_fields[["mean", "low", "high"]] / 100)
        if ours.isna().any(axis=None):  # results were deleted
            row |= {column: NOT_RUN for column in row if column.startswith("here: ")}
        rows.append(row)
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def both(scores: pd.Series) -> str:
    return f"{per_cent(scores['exact_match'])} / {per_cent(scores['f1'])}"


def with_interval(scores: pd.DataFrame) -> str:
    """As `both`; exact match with its interval. The columns are the mean, the lower and the upper end."""
    mean, low, high = map(per_cent, scores.loc["exact_match"])
    return f"{mean} [{low}, {high}] / {per_cent(scores.loc['f1'].iloc[0])}"


def per_cent(share: float) -> str:
    """Rounded as the paper's tables are, which have two digits of the share."""
    return f"{100 * round(share, 2):.0f}"


def studies() -> str:
    """The difference minus random dropout and minus one model's attention, a row for each table of a study."""
    rows = []
    for table, arms in STUDIES.items():
        scores = pd.read_csv(ROOT / "results" / table / "table.csv")
        scores = scores[scores["evaluation"] == arms.evaluation]
        rows.append(
            {
                "table": f"`{table}`",
                "minus random: exact match, %": minus(scores, "exact_match", arms.difference, arms.random),
                "minus random: F1, %": minus(scores, "f1", arms.difference, arms.random),
                "minus the small model's attention: log-likelihood": minus(
                    scores, "log_likelihood", arms.difference, arms.small
                ),
                "minus the large model's: log-likelihood": minus(scores, "log_likelihood", arms.difference, arms.large),
            }
        )
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def minus(scores: pd.DataFrame, measure: str, arm: str, other: str | None) -> str:
    """An arm minus another, as a table.csv has it or with the signs turned; a dash where the study has no other."""
    if other is None:
        return NOT_RUN
    rows = scores[scores["measure"] == measure].set_index("arm")

    def mean_and_interval(one: str, two: str) -> pd.Series:
        return rows.loc[one].reindex([f"minus {two}", f"minus {two}, low", f"minus {two}, high"])

    mean, low, high = mean_and_interval(arm, other)
    if pd.isna(mean):
        mean, high, low = -mean_and_interval(other, arm)
    if pd.isna(mean):
        raise ValueError(f"{arm} and {other} are not compared")
    digits = MEASURES[measure][1]
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def filled(text: str) -> str:
    """The text with each marked place holding its table as it is in results/ now; a section has its heading above."""

    def fill(match: re.Match) -> str:
        if match[2].endswith(".csv"):
            table = {"methods": methods, "studies": studies}[match[3]]()
        else:
            # Committed results have this name from before there were questions.
            caption = re.sub("^paper", "paper (statements to be completed, not the paper's questions)", match[3])
            table = f"*{caption}*\n\n{section((ROOT / match[2]).read_text(encoding='utf-8'), match[3])}"
        return f"{match[1]}\n{table}\n\n{match[4]}"

    return MARKED.sub(fill, text)


if __name__ == "__main__":
    for page in PAGES:
        with whole_file(page) as aside:
            aside.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
