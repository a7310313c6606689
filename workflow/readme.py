"""The tables of README.md and results/README.md, between `<!-- results/NAME/table.md: SECTION -->` and `<!-- end -->`;
the first of README.md, `methods`, likewise between `<!-- results/paper/table2.csv: methods -->` and the same.

python -m workflow.readme
"""

import re
from pathlib import Path

import pandas as pd

from utils.artifacts import whole_file
from workflow.paper import NOT_RUN

ROOT = Path(__file__).resolve().parent.parent

PAGES = [ROOT / "README.md", ROOT / "results/README.md"]

MARKED = re.compile(r"(<!-- (\S+): ([^\n]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


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
    latter's five fields with intervals."""
    paper = pd.read_csv(ROOT / "results/paper/table2.csv").set_index(["model", "arm", "field"])
    study = pd.read_csv(ROOT / "results/paper_qwen_0.5b/table.csv").set_index(["evaluation", "arm"])
    rows = []
    for method, arm in METHODS.items():
        row = {"trained on": method}
        for field in FIELDS:
            published = paper.loc[("Llama 3 8B", arm, field)].set_index("measure")["published"]
            row[f"paper: {field}"] = both(100 * published)
        for field in FIELDS:
            ours = paper.loc[("Qwen2.5-Coder 0.5B", arm, field)].set_index("measure")["chosen on the others"]
            row[f"here: {field}"] = both(100 * ours)
        five_fields = study.loc[("questions, chosen on the others", arm)].set_index("measure")
        row["here: five fields"] = " / ".join(
            "{mean:.0f} [{low:.0f}, {high:.0f}]".format(**five_fields.loc[measure]) for measure in ("exact_match", "f1")
        )
        if ours.isna().any():  # results were deleted
            row |= {column: NOT_RUN for column in row if column.startswith("here: ")}
        rows.append(row)
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def both(scores: pd.Series) -> str:
    return f"{scores['exact_match']:.0f} / {scores['f1']:.0f}"


def filled(text: str) -> str:
    """The text with each marked place holding its table as it stands in results/ now."""

    def fill(match: re.Match) -> str:
        table = (
            section((ROOT / match[2]).read_text(encoding="utf-8"), match[3]) if match[2].endswith(".md") else methods()
        )
        return f"{match[1]}\n{table}\n\n{match[4]}"

    return MARKED.sub(fill, text)


if __name__ == "__main__":
    for page in PAGES:
        with whole_file(page) as aside:
            aside.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
