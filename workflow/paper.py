"""The paper's Tables 1 to 3, in its shape, its numbers beside ours: results/paper/table1.md, .csv, .tex, and so on. The
same numbers, unrounded, are in table1_numbers.csv, and so on: a row for each model, arm, field and measure.

python -m workflow.paper
python -m workflow.paper unfinished    # names the tables that were finished once, and now lack runs
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from utils.artifacts import whole_file
from utils.errors import InputError
from workflow import check, intervals
from workflow.results import read_study
from workflow.selection import OTHERS, REPORTED, asked, choose, read_scores, reported
from workflow.summary import LATEX, scores_by_field
from workflow.table import PUBLISHED, asked_about, augmentation_of, dump_of, epochs_of, plain_paths, rates_of, runs

# Of biographies, the paper's name of what each table of conf/tables/ trains; the paper does not have the last three.
MODELS = {
    "paper_llama3_8b": "Llama 3 8B",
    "paper_llama3_70b": "Llama 3 70B",
    "paper_gemma2_2b": "Gemma 2 2B",
    "paper_gemma2_9b": "Gemma 2 9B",
    "paper_qwen_0.5b": "Qwen2.5-Coder 0.5B",
    "paper_qwen_1.5b": "Qwen2.5-Coder 1.5B",
    "paper_smollm2": "SmolLM2-135M",
}

# Of paragraphs, what each table trains, and whose they are; the paper has Wikipedia's.
PARAGRAPHS = {
    "paper_wiki_gemma2_2b": ("Gemma 2 2B", "Wikipedia"),
    "paper_wiki_gemma2_9b": ("Gemma 2 9B", "Wikipedia"),
    "paper_wiki_llama3_8b": ("Llama 3 8B", "Wikipedia"),
    "paper_wiki_llama3_70b": ("Llama 3 70B", "Wikipedia"),
    "paper_paragraphs_smollm2": ("SmolLM2-135M", "ours"),
    "paper_squad_smollm2": ("SmolLM2-135M", "SQuAD"),
    "paper_paragraphs_qwen_0.5b": ("Qwen2.5-Coder 0.5B", "ours"),
    "paper_squad_qwen_0.5b": ("Qwen2.5-Coder 0.5B", "SQuAD"),
}

# Of each of the paper's tables: its arms and its fields.
TABLES = {
    1: (["none"], ["date", "city", "university", "major", "company"]),
    2: (["none", "random", "attention", "difference"], ["university", "company"]),
    3: (["none", "random", "attention", "difference"], ["all"]),
}

MEASURES = {"exact_match": "EM", "f1": "F1"}

# Of ours; of the published ones, what the paper does not have.
NOT_RUN = "–"

TITLES = {1: "Table 1: after plain fine-tuning", 2: "Table 2: biographies", 3: "Table 3: paragraphs"}

BIOGRAPHIES_EXPLAINED = (
    "Exact match / F1, from 0 to 1. *Published*: the paper's number. Ours: the mean over seeds and reported people, "
    "in brackets its 95 % interval by bootstrap over both together; the checkpoint (and the learning rate, if there "
    "were several) was chosen for each arm on people who are not reported (*chosen on the others*), and on the "
    "reported people themselves, as the paper seems to do (*chosen on the reported*: too high). Alpha and beta are "
    "the paper's; for a model that the paper does not have, they are those of its Llama 3 8B. Random deletes with "
    "probability alpha. The people and the questions' wording are ours, not the paper's. Both of our tables have the "
    "same runs of plain fine-tuning; the paper's numbers for it differ between its two. "
)

PARAGRAPHS_EXPLAINED = (
    "Exact match (EM) and F1, from 0 to 1, of all questions about paragraphs that were trained on, asked without "
    "them. *Published*: the paper's number. Ours: the mean over the questions of a paragraph, then over the reported "
    "paragraphs and the seeds, so that each paragraph counts alike; in brackets its 95 % interval by bootstrap over "
    "paragraphs and seeds together. The checkpoint (and the learning rate, if there were several) was chosen for each "
    "arm on paragraphs that are not reported (*chosen on the others*), and on the reported ones themselves, as the "
    "paper seems to do (*chosen on the reported*: too high); if that is empty there was one checkpoint, and nothing "
    "to choose. Alpha and beta are the paper's; for a model that the paper does not have, they are those of most of "
    "its models. Random deletes with probability alpha. Wikipedia: 100 paragraphs of the paper's data; how many and "
    "which it has, it does not say. SQuAD: 100 of its paragraphs, of Wikipedia as well. Ours: about invented things, "
    "which no model has read of. "
)

ALL_EXPLAINED = "The weights of Qwen2.5-Coder and SmolLM2 come from quantized files. –: not run, or not in the paper."

EXPLAINED = dict.fromkeys((1, 2), BIOGRAPHIES_EXPLAINED + ALL_EXPLAINED) | {3: PARAGRAPHS_EXPLAINED + ALL_EXPLAINED}


def read_table(path: Path, results: Path) -> dict:
    """A table of conf/tables/, checked, and so are its results. They may be there where the paragraphs are not, which
    are not all committed; then they are checked alone."""
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not check.not_made(config):
        check.check_table(config)
    config = plain_paths(config)
    check.check_results(config, results)
    return config


def unfinished(tables: Path, results: Path) -> list[str]:
    """The tables that were finished once and now lack runs, since a run's results were deleted. Says on standard error
    on what the others were made: elsewhere not all digits are the same."""
    found = []
    for table in (*MODELS, *PARAGRAPHS):
        config = read_table(tables / f"{table}.yaml", results / table)
        records = read_study(results / table).records
        lacking = sorted(set(runs(config)) - records.keys())
        if lacking and (results / table / "table.md").exists():
            found.append(table)
            made_on = devices(records)
            where = f"; the others were made on: {made_on}; on another machine digits differ" if made_on else ""
            print(
                f"{table}: results missing: {len(lacking)} ({lacking[0]} ...), made again here{where}", file=sys.stderr
            )
    return found


def devices(records: dict[str, dict]) -> str:
    """The devices that a study's runs were made on, such as cpu."""
    return ", ".join(sorted({one["device"] for one in records.values() if "device" in one}))


def our_scores(config: dict, results: Path) -> dict[tuple, dict[str, float]]:
    """For each arm, field and measure: mean and interval, by way of choosing; of an arm nothing before all its runs are
    there. Of paragraphs the field is `all`; where there is one checkpoint, the second way is left out."""
    scores: dict[tuple, dict[str, float]] = {}
    on_paragraphs = config["table"] in PARAGRAPHS
    one_candidate = config["checkpoints"] == len(rates_of(config)) == 1
    for arm in TABLES[2][0]:
        alone = config | {"arms": {arm: config["arms"][arm]}}
        files = [file for file in runs(alone) if file.startswith(f"{arm}/")]
        missing = len(set(files) - read_study(results).records.keys())
        if missing:
            if missing < len(files):
                print(
                    f"{config['table']}: {missing} of {arm}'s {len(files)} results are missing, so it counts as not run"
                    f"; to make them: make tables TABLE={config['table']}"
                )
            continue
        fields = TABLES[3 if on_paragraphs else 1 if arm == "none" else 2][1]
        for way, choices in choose(alone, results).items():
            if on_paragraphs and one_candidate and way == REPORTED:
                continue
            # Of the only evaluation.
            ((_, _, folders),) = asked(alone, {way: choices})
            for measure in MEASURES:
                if on_paragraphs:
                    found = {
                        "all": np.stack([read_scores(results, one, reported(config))[measure] for one in folders[arm]])
                    }
                else:
                    found = scores_by_field(results, folders[arm], measure, reported(config))
                for field in fields:
                    shares = found[field] / 100
                    low, high = intervals.interval(shares)
                    cell = scores.setdefault((arm, field, measure), {})
                    cell |= {way: shares.mean(), f"{way}, low": low, f"{way}, high": high}
    return scores


def how_run(config: dict, results: Path) -> str:
    """For people to read: how a table was run."""
    names = MODELS | {table: ", ".join(both) for table, both in PARAGRAPHS.items()}
    (evaluation,) = config["evaluations"]
    study = read_study(results)
    count = next(iter(study.answers.values()))["name"].nunique()
    large, small = (Path(config[size]).name for size in ("large", "small"))
    own = large if dump_of(config, "attention", config["seeds"][0]) == "attention_large" else small
    return (
        f"{names[config['table']]}: {len(config['seeds'])} seeds; {config['reported']} of {count} "
        f"{asked_about(config, evaluation)} reported; epochs: {config['epochs']} (plain: {epochs_of(config, 'none')}); "
        f"checkpoints: {config['checkpoints']}; learning rates: {', '.join(map(str, rates_of(config)))}; attention: "
        f"{own}; difference: {large} minus {small}; trained and asked on: {devices(study.records) or 'not recorded'}."
    )


def alpha_and_beta(config: dict, arm: str) -> tuple[float | None, float | None]:
    """As the paper has them: random deletes with probability alpha, where data_augmentation.py keeps."""
    keys = augmentation_of(config, arm)
    alpha = keys.get("alpha")
    return round(1 - alpha, 6) if keys.get("augment_type") == "random" else alpha, keys.get("beta")


def collect(number: int, configs: dict[str, dict], ours: dict[str, dict], published: pd.DataFrame) -> pd.DataFrame:
    """A row for each model (in Table 3 for each of its kinds of paragraphs), arm, field and measure."""
    arms, fields = TABLES[number]
    named = {table: {"model": model, "paragraphs": whose} for table, (model, whose) in PARAGRAPHS.items()}
    if number != 3:
        named = {table: {"model": model} for table, model in MODELS.items()}
    paper_rows = published[published["table"] == number].set_index(["model", "arm", "field"])
    # Those that the paper has, in its order, and then the others.
    models = list(dict.fromkeys(published.loc[published["table"] == number, "model"]))
    places = {model: place for place, model in enumerate(models)}
    rows = []
    for table, names in sorted(named.items(), key=lambda item: places.get(item[1]["model"], len(models))):
        for arm in arms:
            alpha, beta = alpha_and_beta(configs[table], arm)
            for field in fields:
                for measure in MEASURES:
                    key = (names["model"], arm, field)
                    row = names | {"arm": arm, "alpha": alpha, "beta": beta, "field": field, "measure": measure}
                    row["published"] = paper_rows.loc[key, measure] if key in paper_rows.index else None
                    rows.append(row | ours[table].get((arm, field, measure), {}))
    way_columns = [f"{way}{suffix}" for way in (OTHERS, REPORTED) for suffix in ("", ", low", ", high")]
    name_columns = ["model", "paragraphs"] if number == 3 else ["model"]
    columns = [*name_columns, "arm", "alpha", "beta", "field", "measure", "published", *way_columns]
    return pd.DataFrame(rows, columns=columns)


def shown(number: int, scores: pd.DataFrame) -> pd.DataFrame:
    """Tables 1 and 2 for people to read: a row for each model and arm, three in Table 1, which has more fields."""

    def cell(field_rows: pd.DataFrame, column: str) -> str:
        """Exact match / F1."""
        halves = [number_and_interval(row, column, 2) for row in field_rows.to_dict("records")]
        return NOT_RUN if NOT_RUN in halves else " / ".join(halves)

    rows = []
    for (model, _), arm_rows in scores.groupby(["model", "arm"], sort=False):
        by_field = dict(list(arm_rows.groupby("field", sort=False)))
        if number == 1:
            for column in ("published", OTHERS, REPORTED):
                cells = {field: cell(field_rows, column) for field, field_rows in by_field.items()}
                rows.append({"model": model, "numbers": column if column == "published" else f"ours, {column}"} | cells)
        else:
            row = {"model": model} | arm_shown(arm_rows)
            for field, field_rows in by_field.items():
                for column in ("published", OTHERS, REPORTED):
                    row[f"{field}, {column}"] = cell(field_rows, column)
            rows.append(row)
    return pd.DataFrame(rows)


def shown_of_paragraphs(scores: pd.DataFrame) -> pd.DataFrame:
    """Table 3 for people to read: a row for each model, kind of paragraphs and arm."""
    rows = []
    for (model, paragraphs, _), arm_rows in scores.groupby(["model", "paragraphs", "arm"], sort=False):
        row = {"model": model, "paragraphs": paragraphs} | arm_shown(arm_rows)
        for measure_row in arm_rows.to_dict("records"):
            # With three decimals, as the paper has them here.
            for column in ("published", OTHERS, REPORTED):
                row[f"{MEASURES[measure_row['measure']]}, {column}"] = number_and_interval(measure_row, column, 3)
            if pd.isna(measure_row[REPORTED]) and not pd.isna(measure_row[OTHERS]):
                row[f"{MEASURES[measure_row['measure']]}, {REPORTED}"] = ""
        rows.append(row)
    return pd.DataFrame(rows)


def arm_shown(arm_rows: pd.DataFrame) -> dict[str, str]:
    arm, *values = arm_rows.iloc[0][["arm", "alpha", "beta"]]
    alpha, beta = ("" if pd.isna(value) else f"{value:g}" for value in values)
    return {"arm": "plain" if arm == "none" else arm, "alpha": alpha, "beta": beta}


def number_and_interval(row: dict, column: str, digits: int) -> str:
    if pd.isna(row[column]):
        return NOT_RUN
    low, high = row.get(f"{column}, low"), row.get(f"{column}, high")
    return f"{row[column]:.{digits}f}" + ("" if low is None else f" [{low:.{digits}f}, {high:.{digits}f}]")


def latex(readable: pd.DataFrame, caption: str, short: str) -> str:
    """As wide as the page; the first line says which packages it needs."""
    caption = caption.replace("*", "").translate(LATEX)
    table = readable.to_latex(index=False, escape=True, caption=(caption, short))
    begin, end = r"\begin{tabular}", r"\end{tabular}"
    table = table.replace(begin, rf"\resizebox{{\textwidth}}{{!}}{{{begin}").replace(end, f"{end}}}")
    return f"% Needs \\usepackage{{booktabs,graphicx}}\n{table}"


def main(tables: Path, results: Path, output: Path) -> None:
    configs = {table: read_table(tables / f"{table}.yaml", results / table) for table in (*MODELS, *PARAGRAPHS)}
    ours = {table: our_scores(config, results / table) for table, config in configs.items()}
    published = pd.read_csv(PUBLISHED)
    for number, title in TITLES.items():
        scores = collect(number, configs, ours, published)
        readable = shown_of_paragraphs(scores) if number == 3 else shown(number, scores)
        markdown = readable.to_markdown(index=False, disable_numparse=True)
        found = [table for table in (PARAGRAPHS if number == 3 else MODELS) if ours[table]]
        how = [how_run(configs[table], results / table) for table in found]
        listed = "\n".join(f"- {line}" for line in how)
        contents = {
            ".md": f"# {title}\n\n{EXPLAINED[number]}\n\n{listed}\n\n{markdown}\n",
            ".csv": readable.to_csv(index=False),
            ".tex": latex(readable, " ".join((f"{title}.", EXPLAINED[number], *how)), title),
            "_numbers.csv": scores.to_csv(index=False),
        }
        for ending, content in contents.items():
            path = output / f"table{number}{ending}"
            with whole_file(path) as aside:
                aside.write_text(content, encoding="utf-8")
            print(path)


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["unfinished"]:
            print(*unfinished(Path("conf/tables"), Path("results")))
        else:
            main(Path("conf/tables"), Path("results"), Path("results/paper"))
    except InputError as error:
        sys.exit(str(error))
