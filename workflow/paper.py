"""The paper's Tables 1 and 2, in its shape, its numbers beside ours: results/paper/table1.md, .csv, .tex and table2.

python workflow/paper.py
"""

import sys
from pathlib import Path

import pandas as pd
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.artifacts import whole_file
from utils.errors import InputError
from workflow import check, intervals
from workflow.choice import OTHERS, REPORTED, asked, choose, reported
from workflow.summary import of_fields
from workflow.table import augmentation_of, plain_paths, runs

ROOT = Path(__file__).resolve().parent.parent

# The paper's name of what each table of conf/tables/ trains; the paper does not have the last two.
MODELS = {
    "paper_llama3_8b": "Llama 3 8B",
    "paper_llama3_70b": "Llama 3 70B",
    "paper_gemma2_2b": "Gemma 2 2B",
    "paper_gemma2_9b": "Gemma 2 9B",
    "paper_qwen_0.5b": "Qwen2.5-Coder 0.5B",
    "paper_qwen_1.5b": "Qwen2.5-Coder 1.5B",
}

# Of each of the paper's tables: its arms and its fields.
TABLES = {
    1: (["none"], ["date", "city", "university", "major", "company"]),
    2: (["none", "random", "attention", "difference"], ["university", "company"]),
}

MEASURES = ["exact_match", "f1"]

TITLES = {1: "Table 1: after plain fine-tuning", 2: "Table 2: biographies"}

EXPLAINED = (
    "Exact match / F1, from 0 to 1. *Published*: the paper's number. Ours: the mean over seeds and reported people, in "
    "brackets its 95 % interval by bootstrap over both together; learning rate and epoch were chosen for each arm on "
    "people who are not reported (*chosen on the others*), and on the reported people themselves, as the paper seems "
    "to do (*chosen on the reported*: too high). Alpha and beta as the paper has them: random deletes with probability "
    "alpha. The people and the questions' wording are ours, not the paper's. Plain fine-tuning is the same runs in "
    "both of our tables; the paper's numbers of it differ between the two. –: not run, or not in the paper."
)


def read_table(path: Path, results: Path) -> dict:
    """A table of conf/tables/, checked, and so are its results."""
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    check.check_table(config)
    config = plain_paths(config)
    check.check_results(config, results)
    return config


def our_scores(config: dict, results: Path) -> dict[tuple, dict[str, float]]:
    """For each arm, field and measure: mean and interval, by way of choosing; of an arm nothing before all its runs are
    there."""
    scores: dict[tuple, dict[str, float]] = {}
    for arm in TABLES[2][0]:
        alone = config | {"arms": {arm: config["arms"][arm]}}
        files = [file for file in runs(alone) if file.startswith(f"{arm}/")]
        missing = sum(not (results / file).is_file() for file in files)
        if missing:
            if missing < len(files):
                print(f"{config['table']}: {missing} of {arm}'s {len(files)} results are missing: it counts as not run")
            continue
        for way, of_way in choose(alone, results).items():
            # Of the only evaluation.
            ((_, _, folders),) = asked(alone, {way: of_way})
            for measure in MEASURES:
                found = of_fields([results / folder for folder in folders[arm]], measure, reported(config))
                for field in TABLES[1 if arm == "none" else 2][1]:
                    shares = found[field] / 100
                    low, high = intervals.interval(shares)
                    of_cell = scores.setdefault((arm, field, measure), {})
                    of_cell |= {way: shares.mean(), f"{way}, low": low, f"{way}, high": high}
    return scores


def alpha_and_beta(config: dict, arm: str) -> tuple[float | None, float | None]:
    """As the paper has them: random deletes with probability alpha, where data_augmentation.py keeps."""
    keys = augmentation_of(config, arm)
    alpha = keys.get("alpha")
    return round(1 - alpha, 6) if keys.get("augment_type") == "random" else alpha, keys.get("beta")


def collect(number: int, configs: dict[str, dict], ours: dict[str, dict], published: pd.DataFrame) -> pd.DataFrame:
    """A row for each model, arm, field and measure."""
    arms, fields = TABLES[number]
    of_paper = published[published["table"] == number].set_index(["model", "arm", "field"])
    rows = []
    for table, model in MODELS.items():
        for arm in arms:
            alpha, beta = alpha_and_beta(configs[table], arm)
            for field in fields:
                for measure in MEASURES:
                    key = (model, arm, field)
                    row = {"model": model, "arm": arm, "alpha": alpha, "beta": beta, "field": field, "measure": measure}
                    row["published"] = of_paper.loc[key, measure] if key in of_paper.index else None
                    rows.append(row | ours[table].get((arm, field, measure), {}))
    of_ways = [f"{way}{of}" for way in (OTHERS, REPORTED) for of in ("", ", low", ", high")]
    columns = ["model", "arm", "alpha", "beta", "field", "measure", "published", *of_ways]
    return pd.DataFrame(rows, columns=columns)


def shown(number: int, scores: pd.DataFrame) -> pd.DataFrame:
    """For people to read: a row for each model and arm, three in Table 1, which has more fields."""

    def cell(of_field: pd.DataFrame, column: str) -> str:
        """Exact match / F1."""
        halves = []
        for row in of_field.to_dict("records"):
            if pd.isna(row[column]):
                return "–"
            low, high = row.get(f"{column}, low"), row.get(f"{column}, high")
            halves.append(f"{row[column]:.2f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]"))
        return " / ".join(halves)

    rows = []
    for (model, arm), of_arm in scores.groupby(["model", "arm"], sort=False):
        by_field = dict(list(of_arm.groupby("field", sort=False)))
        if number == 1:
            for column in ("published", OTHERS, REPORTED):
                cells = {field: cell(of_field, column) for field, of_field in by_field.items()}
                rows.append({"model": model, "numbers": column if column == "published" else f"ours, {column}"} | cells)
        else:
            alpha, beta = ("" if pd.isna(value) else f"{value:g}" for value in of_arm.iloc[0][["alpha", "beta"]])
            row = {"model": model, "arm": "plain" if arm == "none" else arm, "alpha": alpha, "beta": beta}
            for field, of_field in by_field.items():
                for column in ("published", OTHERS, REPORTED):
                    row[f"{field}, {column}"] = cell(of_field, column)
            rows.append(row)
    return pd.DataFrame(rows)


def main(tables: Path, results: Path, output: Path) -> None:
    configs = {table: read_table(tables / f"{table}.yaml", results / table) for table in MODELS}
    ours = {table: our_scores(config, results / table) for table, config in configs.items()}
    published = pd.read_csv(ROOT / "workflow/published.csv")
    for number, title in TITLES.items():
        scores = collect(number, configs, ours, published)
        readable = shown(number, scores)
        markdown = readable.to_markdown(index=False, disable_numparse=True)
        contents = {
            "md": f"# {title}\n\n{EXPLAINED}\n\n{markdown}\n",
            "csv": scores.to_csv(index=False),
            "tex": readable.to_latex(index=False, escape=True, caption=title),
        }
        for kind, content in contents.items():
            path = output / f"table{number}.{kind}"
            with whole_file(path) as aside:
                aside.write_text(content, encoding="utf-8")
            print(path)


if __name__ == "__main__":
    try:
        main(Path("conf/tables"), Path("results"), Path("results/paper"))
    except InputError as error:
        sys.exit(str(error))
