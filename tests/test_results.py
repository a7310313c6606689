"""A study's two files: what is added, in whatever order, what is taken out, and what is refused."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.studies import answer, write_run
from utils.artifacts import file_hash, write_csv, write_json
from utils.errors import InputError
from workflow import results
from workflow.results import add, clear, files_of, forget, place_of, read_made, read_study

ODD = ["None", "007", "", "NA", "1e3", "half\rof it", "two\nlines", 'a "b", c', "größe", " x "]


def runs() -> list[tuple[dict, dict]]:
    """The records and answers of six runs, the last of them untrained. Only the last part's answers are kept."""
    draw = random.Random(0)

    def rows() -> list[dict]:
        return [
            answer(
                "city", name, -draw.random(), answer=draw.choice(ODD), chosen=draw.choice(ODD), f1=100 * draw.random()
            )
            for name in ODD
        ]

    made = []
    for arm, seed in (("none", 1), ("none", 2), ("difference", 1), ("difference", 2), ("difference", 10)):
        run = f"{arm}/seed-{seed}-rate-5e-05"
        records = {f"{run}/run.json": {"steps": 8, "loss": [[1, draw.random()]]}}
        records |= {f"{run}/paper/{part}/metrics.json": {"average": {"f1": draw.random()}} for part in (1, 2, 10)}
        made.append((records, {f"{run}/paper/10": rows()}))
    return [*made, ({"untrained/paper/metrics.json": {"average": {"f1": 1 / 3}}}, {"untrained/paper": rows()})]


def content(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in files_of(folder)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A study of all these runs, added at once."""
    folder = tmp_path_factory.mktemp("whole")
    for records, answers in runs():
        write_run(folder / "made", records, answers)
    add(folder / "made", folder / "study")
    return folder / "study"


def test_what_is_read_is_what_was_added(whole):
    records, answers = read_study(whole)
    assert records == {name: record for run_records, _ in runs() for name, record in run_records.items()}
    # Text as it is, and each float to the bit.
    expected = {asked: rows for _, run_answers in runs() for asked, rows in run_answers.items()}
    assert {asked: frame.to_dict("records") for asked, frame in answers.items()} == expected
    # By part, not by its digits.
    assert list(answers) == sorted(answers, key=place_of)
    assert {path.name for path in whole.iterdir()} == {"answers.parquet", "runs.json"}


@pytest.mark.parametrize("draw", range(4))
def test_runs_are_added_in_any_order(draw, whole, tmp_path):
    order = random.Random(draw)
    for records, answers in order.sample(runs(), 6):
        write_run(tmp_path / "made", records, answers)
        if order.random() < 0.5:
            add(tmp_path / "made", tmp_path / "study")
        if order.random() < 0.5:
            clear(tmp_path / "made", tmp_path / "study")
    add(tmp_path / "made", tmp_path / "study")
    assert content(tmp_path / "study") == content(whole)
    clear(tmp_path / "made", tmp_path / "study")
    assert [path.name for path in tmp_path.iterdir()] == ["study"]


@pytest.fixture
def place(whole, tmp_path, monkeypatch) -> Path:
    """results/study/ with all runs, in the working directory."""
    shutil.copytree(whole, tmp_path / "results/study")
    monkeypatch.chdir(tmp_path)
    return Path("results/study")


def test_a_run_is_forgotten_and_added_again(place):
    before, (records, answers) = content(place), runs()[3]
    forget("study", "difference/seed-2-rate-5e-05")
    study = read_study(place)
    assert len(study.records) == 5 * 4 + 1 - 4 and len(study.answers) == 5
    assert not any("seed-2" in name for name in [*study.records, *study.answers] if "difference" in name)
    write_run(results.made_of("study"), records, answers)
    add(results.made_of("study"), place)
    assert content(place) == before
    # As may one part of it, whose answers go with it.
    forget("study", "none/seed-1-rate-5e-05/paper/10")
    study = read_study(place)
    assert len(study.records) == 5 * 4 and len(study.answers) == 5
    # What waits to be added is forgotten as well; an arm is all of its runs.
    write_run(results.made_of("study"), records, answers)
    forget("study", "difference", "untrained")
    assert not read_made(results.made_of("study"))
    assert {name.split("/")[0] for entries in read_study(place) for name in entries} == {"none"}
    forget("study", "none")
    assert read_study(place) == ({}, {})


def test_a_run_that_is_there_is_replaced(place):
    asked = "none/seed-1-rate-5e-05/paper/10"
    before = read_study(place)
    write_run(Path("made"), {f"{asked}/metrics.json": {"average": {"f1": 0}}}, {asked: [answer("city", "Ann")]})
    add(Path("made"), place)
    after = read_study(place)
    assert after.answers[asked]["name"].tolist() == ["Ann"]
    assert after.records == before.records | {f"{asked}/metrics.json": {"average": {"f1": 0}}}
    assert after.answers.keys() == before.answers.keys()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: cut(folder / "runs.json"), r"^\S+/runs.json: damaged: .*; restore it from Git$"),
        (lambda folder: (folder / "runs.json").write_text("[]"), "/runs.json: damaged: no JSON object"),
        (lambda folder: cut(folder / "answers.parquet"), r"^\S+/answers.parquet: damaged: .*; restore it from Git$"),
        (lambda folder: (folder / "answers.parquet").unlink(), "/answers.parquet: no such file, though runs.json is"),
    ],
)
def test_a_damaged_study_is_one_line(spoil, message, place):
    spoil(place)
    with pytest.raises(InputError, match=message) as raised:
        read_study(place)
    assert "\n" not in str(raised.value)
    write_run(Path("made"), *runs()[0])
    before = [path.read_bytes() for path in place.iterdir()]
    with pytest.raises(InputError, match=message):
        add(Path("made"), place)
    assert before == [path.read_bytes() for path in place.iterdir()] and read_made(Path("made"))


ASKED = Path("made/none/seed-1-rate-5e-05/paper/10")


def without_a_column() -> None:
    write_csv(ASKED / "predictions.csv", [{"field": "city", "name": "Ann"}])
    write_json(ASKED / "metrics.json", {})


def cut_off_in_a_row() -> None:
    (ASKED / "predictions.csv").write_text("field,name,answer\ncity,Ann\n")
    write_json(ASKED / "metrics.json", {})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda: cut(ASKED / "metrics.json"), f"^{ASKED}/metrics.json: damaged: .*; delete {ASKED} to redo it$"),
        (lambda: cut(ASKED / "predictions.csv"), "predictions.csv: damaged: not the answers that metrics.json is of"),
        (lambda: (ASKED / "predictions.csv").unlink(), "predictions.csv: damaged: .*No such file"),
        (cut_off_in_a_row, "predictions.csv: damaged: a row is cut off"),
        (without_a_column, "predictions.csv: damaged: no column 'answer'"),
    ],
)
def test_half_a_run_is_not_added(spoil, message, place):
    for records, answers in runs()[:3]:
        write_run(Path("made"), records, answers)
    metrics = json.loads((ASKED / "metrics.json").read_text())
    write_json(ASKED / "metrics.json", metrics | {"sha256": file_hash(ASKED / "predictions.csv")})
    spoil()
    before, files = content(place), sorted(Path("made").rglob("*"))
    with pytest.raises(InputError, match=message) as raised:
        add(Path("made"), place)
    assert "\n" not in str(raised.value)
    assert content(place) == before and sorted(Path("made").rglob("*")) == files


def test_what_a_killed_job_left_is_not_added(tmp_path):
    (records, answers), (others, other_answers) = runs()[:2]
    write_run(tmp_path / "made", records, answers | other_answers)
    (tmp_path / "made/none/.run.json.part").write_text("{")
    add(tmp_path / "made", tmp_path / "study")
    study = read_study(tmp_path / "study")
    assert study.records == records and list(study.answers) == list(answers)
    add(tmp_path / "made", tmp_path / "study")
    assert read_study(tmp_path / "study").records == records


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["studi", "none"], "^studi: no such table has runs; there are: study$"),
        (["..", "none"], "^..: no such table has runs"),
        (
            ["study", "none/seed-11-rate-5e-05"],
            "^none/seed-11-rate-5e-05: no such run in results/study; did you mean n",
        ),
        (
            ["study", "none", "xyz"],
            "^xyz: no such run in results/study; there are 6, such as difference/seed-1-rate-5e",
        ),
        # In letters seed-1 is nearer.
        (["study", "difference/seed-10"], "did you mean difference/seed-10-rate-5e-05\\?$"),
        (["study", ""], "no such run"),
        (["study", "../study"], "no such run"),
    ],
)
def test_a_name_that_is_not_there_is_one_line(arguments, message, place):
    before = content(place)
    with pytest.raises(InputError, match=message):
        forget(*arguments)
    assert content(place) == before


def test_forget_is_a_command(place):
    command = [sys.executable, "-m", "workflow.results", "forget", "study"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    usage = "python -m workflow.results add TABLE, or forget TABLE RUN...\n"
    assert (done.returncode, done.stderr) == (2, usage)
    done = subprocess.run([*command, "nobody"], capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stderr.startswith("nobody: no such run") and done.stderr.count("\n") == 1
    subprocess.run([*command, "untrained"], check=True, env=environment)
    assert "untrained/paper" not in read_study(place).answers


def test_add_is_a_command_that_moves_the_finished_runs(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = results.made_of("study")
    for records, answers in runs():
        write_run(made, records, answers)
    results.main("add", "study")
    assert content(Path("results/study")) == content(whole)
    assert not made.exists()
    with pytest.raises(InputError, match="tables_out/study/runs: no finished runs to add"):
        results.main("add", "study")
