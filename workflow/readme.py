"""The tables of README.md and results/README.md, between `<!-- results/NAME/table.md: SECTION -->` and `<!-- end -->`;
the first of README.md, `methods`, likewise between `<!-- workflow/published.csv: methods -->` and the same.

python workflow/readme.py
"""

import re
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.artifacts import whole_file

ROOT = Path(__file__).resolve().parent.parent

PAGES = [ROOT / "README.md", ROOT / "results/README.md"]

MARKED = re.compile(r"(<!-- (\S+): ([^\n]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def section(markdown: str, heading: str) -> str:
    """What follows `## heading`, up to the next heading."""
    (found,) = re.findall(rf"^## {re.escape(heading)}\n+(.*?)\s*(?=^#|\Z)", markdown, re.DOTALL | re.MULTILINE)
    return found


# README.md's first table: each method, and which arm it is in the paper and here.
METHODS = {
    "plain texts": ("none", "none"),
    "random dropout": ("random", "random"),
    "one model's attention": ("attention", "attention_small"),
    "the difference": ("difference", "difference"),
}

STUDIES = {"SmolLM2-135M": "biographies_cpu", "trained from scratch": "biographies_scratch"}


def methods() -> str:
    """Exact match / F1 in per cent: of the paper's Llama 3 8B in its Table 2, and of the studies in results/."""
    published = pd.read_csv(ROOT / "workflow/published.csv").query("table == 2 and model == 'Llama 3 8B'")
    of_paper = published.set_index(["arm", "field"])
    rows = []
    for method, arms in METHODS.items():
        row = {"trained on": method}
        for field in ("university", "company"):
            found = of_paper.loc[(arms[0], field)]
            row[f"paper: {field}"] = f"{100 * found['exact_match']:.0f} / {100 * found['f1']:.0f}"
        for study, name in STUDIES.items():
            scores = pd.read_csv(ROOT / "results" / name / "table.csv").query("evaluation == 'paper'")
            means = scores[scores["arm"] == arms[1]].set_index("measure")["mean"]
            row[f"here: {study}"] = f"{means['exact_match']:.1f} / {means['f1']:.1f}"
        rows.append(row)
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


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
