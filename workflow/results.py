"""A study's runs, in two files of results/<table>/ that are read and written whole.

answers.parquet has a row for each answer: `run` (such as difference/seed-1, or untrained), `evaluation`, `part` (of the
budget; 0 before any training), and what predictions.csv has. runs.json has each run.json and metrics.json, by its name.

While runs are made, their files lie in tables_out/<table>/runs/ under these names: <run>/run.json, and in
<run>/<evaluation>/<part>/, or untrained/<evaluation>/, metrics.json and predictions.csv (not of each part).

    python -m workflow.results add TABLE               # add the finished runs of a table that is not finished
    python -m workflow.results forget TABLE RUN...     # take runs out, so that they are made again
"""

import csv
import difflib
import functools
import json
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from utils.artifacts import file_hash, hidden, whole_file
from utils.errors import InputError, one_line

# A name or an answer is text, whether it is 007 or None.
COLUMNS = dict.fromkeys(("field", "name", "answer", "prediction"), str)
COLUMNS |= dict.fromkeys(("exact_match", "f1", "log_likelihood"), float) | {"chosen": str}

PLACE = {"run": str, "evaluation": str, "part": int}

NO_ANSWERS = pd.DataFrame(columns=[*PLACE, *COLUMNS]).astype(PLACE | COLUMNS)


class Study(NamedTuple):
    """Each run.json and metrics.json by its name, such as difference/seed-1/run.json; and by the folder that they are
    of, such as difference/seed-1/paper/2, answers in the order of asking, with COLUMNS."""

    records: dict[str, dict]
    answers: dict[str, pd.DataFrame]


def made_of(table: str) -> Path:
    """Where a table's runs lie until they are added."""
    return Path("tables_out", table, "runs")


def files_of(results: Path) -> tuple[Path, Path]:
    return results / "runs.json", results / "answers.parquet"


def read_study(results: Path) -> Study:
    """What results/<table>/ has; the last study that was read is kept in memory."""
    stats = [path.stat() if path.exists() else None for path in files_of(results)]
    return _read_study(results.resolve(), *(stat and (stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats))


@functools.lru_cache(maxsize=1)
def _read_study(results: Path, has_records: tuple | None, has_answers: tuple | None) -> Study:
    runs, answers = files_of(results)
    # Answers without records do not count: a kill may leave them.
    if not has_records:
        return Study({}, {})
    if not has_answers:
        raise InputError(f"{answers}: no such file, though {runs.name} is there; restore it")
    try:
        rows = pd.read_parquet(answers, columns=list(NO_ANSWERS)).astype(PLACE | COLUMNS)
    except (OSError, ValueError) as error:
        raise damaged(answers, error) from None
    by_place = rows.groupby(list(PLACE), sort=False)
    return Study(
        read_record(runs),
        {asked_at(*place): group[list(COLUMNS)].reset_index(drop=True) for place, group in by_place},
    )


def read_record(path: Path) -> dict:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, error) from None
    if not isinstance(record, dict):
        raise damaged(path, ValueError("no JSON object"))
    return record


def damaged(path: Path, error: Exception) -> InputError:
    whole = "restore it from Git" if path in files_of(path.parent) else f"delete {path.parent} to redo it"
    return InputError(f"{path}: damaged: {one_line(error)}; {whole}")


def asked_at(run: str, evaluation: str, part: int) -> str:
    """The folder of what was asked after this part of a run's budget; `untrained` has no parts."""
    return f"{run}/{evaluation}/{part}" if part else f"{run}/{evaluation}"


def place_of(asked: str) -> tuple[str, str, int]:
    """The inverse of `asked_at`; arm/seed-1 is a run."""
    if asked.count("/") == 1:
        return *asked.split("/"), 0
    run, evaluation, part = asked.rsplit("/", 2)
    return run, evaluation, int(part)


def write_records(results: Path, records: dict[str, dict]) -> None:
    """A line for each, so that few lines differ where a run is added."""
    lines = [f"{json.dumps(name)}: {json.dumps(records[name], ensure_ascii=False)}" for name in sorted(records)]
    with whole_file(files_of(results)[0]) as aside:
        aside.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def write_answers(results: Path, answers: dict[str, pd.DataFrame]) -> None:
    frames = [
        answers[asked].assign(**dict(zip(PLACE, place_of(asked), strict=True)))[list(NO_ANSWERS)]
        for asked in sorted(answers, key=place_of)
    ]
    with whole_file(files_of(results)[1]) as aside:
        pd.concat([NO_ANSWERS, *frames]).astype(PLACE | COLUMNS).to_parquet(aside, index=False, compression="zstd")


def read_made(made: Path) -> dict[str, dict]:
    """As a study's records, of the runs that are not added yet."""
    paths = sorted([*made.rglob("run.json"), *made.rglob("metrics.json")])
    return {path.relative_to(made).as_posix(): read_record(path) for path in paths}


def read_predictions(folder: Path, metrics: dict) -> pd.DataFrame | None:
    """A folder's predictions.csv; None where metrics.json was kept alone."""
    path = folder / "predictions.csv"
    if "sha256" not in metrics and not path.exists():
        return None
    try:
        if "sha256" in metrics and file_hash(path) != metrics["sha256"]:
            raise ValueError("not the answers that metrics.json is of")
        with open(path, newline="", encoding="utf-8") as opened:
            written = list(csv.DictReader(opened))
        if any(None in row.values() for row in written):
            raise ValueError("a row is cut off")
        rows = [{column: kind(row[column]) for column, kind in COLUMNS.items()} for row in written]
    except KeyError as error:
        raise damaged(path, ValueError(f"no column {error}")) from None
    except (OSError, ValueError) as error:
        raise damaged(path, error) from None
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def add(made: Path, results: Path) -> None:
    """Add all runs of tables_out/<table>/runs/ to results/<table>/; what is there under the same names is replaced.
    Predictions without metrics.json, which comes last, are of a killed job and left out."""
    records, answers = read_made(made), {}
    for name, record in records.items():
        asked, _, kind = name.rpartition("/")
        predictions = read_predictions(made / asked, record) if kind == "metrics.json" else None
        if predictions is not None:
            answers[asked] = predictions
    if not records:
        return
    study = read_study(results)
    replaced = [name.rpartition("/")[0] for name in records]
    kept = {asked: rows for asked, rows in study.answers.items() if asked not in replaced}
    write_answers(results, kept | answers)
    write_records(results, study.records | records)


def clear(made: Path, results: Path) -> None:
    """Remove tables_out/<table>/runs/ where all of it was added."""
    if made.exists() and read_made(made).keys() <= read_study(results).records.keys():
        # At once: a kill must not leave half of them to be added again.
        aside = hidden(made, "added")
        shutil.rmtree(aside, ignore_errors=True)
        made.rename(aside)
        shutil.rmtree(aside)


def forget(table: str, *runs: str) -> None:
    """Take runs out of results/<table>/ and of tables_out/<table>/runs/: an arm, a run, or one of its evaluations."""
    tables = {path.parent.name for path in [*Path("results").glob("*/runs.json"), *Path("tables_out").glob("*/runs")]}
    if table not in tables:
        raise InputError(f"{table}: no such table has runs; there are: {', '.join(sorted(tables)) or 'none'}")
    results, made = Path("results", table), made_of(table)
    study, unadded = read_study(results), read_made(made)
    names = [*study.records, *unadded]
    for run in runs:
        if not any(lies_in(name, run) for name in names):
            known = sorted({name.rpartition("/")[0] for name in names if name.endswith("/run.json")} | {"untrained"})
            with_rate = [name for name in known if name.startswith(f"{run}-rate-")]
            close = with_rate or difflib.get_close_matches(run, known, n=1)
            hint = f"did you mean {' or '.join(close)}?" if close else f"there are {len(known)}, such as {known[0]}"
            raise InputError(f"{run}: no such run in {results}; {hint}")
    for run in runs:
        shutil.rmtree(made / run, ignore_errors=True)
    # Answers without records do not count; records without answers would.
    if any(lies_in(name, *runs) for name in study.records):
        write_records(results, {name: one for name, one in study.records.items() if not lies_in(name, *runs)})
        write_answers(results, {asked: one for asked, one in study.answers.items() if not lies_in(asked, *runs)})


def lies_in(name: str, *folders: str) -> bool:
    """Whether a file or folder lies in one of the folders, or is one of them."""
    return f"{name}/".startswith(tuple(f"{folder}/" for folder in folders))


def main(command: str = "", table: str = "", *runs: str) -> None:
    if command == "forget" and runs:
        forget(table, *runs)
    elif command == "add" and table and not runs:
        made, results = made_of(table), Path("results", table)
        if not read_made(made):
            raise InputError(f"{made}: no finished runs to add")
        add(made, results)
        clear(made, results)
    else:
        raise InputError("python -m workflow.results add TABLE, or forget TABLE RUN...")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
