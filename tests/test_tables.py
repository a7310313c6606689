"""The workflow: a whole table on tiny models, what it does again and what not, and every table's YAML."""

import csv
import itertools
import json
import math
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from accelerate.data_loader import BatchSamplerShard
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from torch.utils.data import BatchSampler

from data import draw_paragraphs
from demo.fetch_models import SOURCES
from tests import tiny
from tests.conftest import ROOT, SNAKEMAKE, squad
from tests.studies import add_answers, answer
from utils import artifacts, attention_dump, biography, questions, scores
from utils.attention_dump import Dump, Row
from utils.errors import InputError
from utils.tokenizer import load_tokenizer
from workflow import check, pictures, selection, summary
from workflow.results import add, files_of, forget, read_study, write_answers, write_records
from workflow.scripts import budget, control_weights, scratch_models, trim
from workflow.scripts.keep_probabilities import keep_probabilities
from workflow.table import (
    RESOURCES,
    augmentation_of,
    dumps_of,
    needs,
    on_command_line,
    runs,
    settings_of,
    training_of,
)

TABLES = sorted((ROOT / "conf/tables").glob("*.yaml"))


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


ARMS = list(read(ROOT / "conf/tables/smoke.yaml")["arms"])


@pytest.fixture(scope="module")
def clone(workplace):
    """A copy of the repository with the smoke table's models, and stand-ins for paragraphs that are not committed."""
    shutil.copytree(ROOT / "workflow", workplace / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    tiny.save_pair(workplace / "tables_out/tiny_models")
    (workplace / "squad.json").write_text(json.dumps(squad(150)))
    for name in ("squad", "wiki"):
        draw_paragraphs.main(str(workplace / "squad.json"), 100, 1, str(workplace / "data_drawn" / name))
    return workplace


@pytest.fixture(scope="module")
def snakemake(clone, warm_python):
    def run(*arguments: str, code: int = 0, name: str = "smoke") -> str:
        # Not `python -m snakemake`, which finds modules in its working directory.
        command = [warm_python, SNAKEMAKE, "--configfile", f"conf/tables/{name}.yaml", "--cores", "2"]
        done = subprocess.run([*command, *arguments], cwd=clone, capture_output=True, text=True, timeout=1200)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def results(clone, snakemake):
    """The smoke table's results, made once."""
    snakemake()
    return clone / "results/smoke"


def row_of(markdown: str, heading: str, arm: str) -> str:
    (row,) = re.findall(rf"^\| {arm} .*$", markdown.split(f"## {heading}\n")[1].split("## ")[0], re.MULTILINE)
    return row


def test_a_table_is_made_of_every_arm_and_seed(results):
    config = read(ROOT / "conf/tables/smoke.yaml")
    records, answers = read_study(results)
    assert set(records) == set(runs(config))
    markdown = (results / "table.md").read_text()
    assert all(f"| {arm} " in markdown for arm in ["untrained", *ARMS])
    assert "tokens dropped, %" in markdown
    for arm in ARMS:
        for seed in config["seeds"]:
            run = records[f"{arm}/seed-{seed}/run.json"]
            seen = run["steps"] * run["texts_a_step"] * run["tokens_a_text"]
            # The nearest even number of steps: a checkpoint comes after each half.
            assert abs(seen - config["tokens"]) <= run["texts_a_step"] * run["tokens_a_text"]
            for part, steps in ((1, run["steps"] / 2), (2, run["steps"])):
                asked = records[f"{arm}/seed-{seed}/paper/{part}/metrics.json"]["config"]
                assert asked["model_dir"] == f"tables_out/smoke/{arm}-{seed}.model/checkpoint-{steps:.0f}"
            # As train.py counts: 100 texts in batches of 8 end an epoch with one of 4; 200 variants come out even.
            assert run["texts_a_step"] == pytest.approx(100 / 13 if arm == "none" else 8, abs=0.01)
            assert len(run["loss"]) == run["steps"]
            assert run["device"] == "cpu" and run["versions"]["torch"] and "commit" in run
            assert (run["tokens_dropped"] > 0.1) == (arm != "none") == (run["characters_blanked"] > 0.1)
    with open(results / "table.csv", newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert {row["arm"] for row in rows} == {"untrained", *ARMS}
    # Means of the tables, from the predictions themselves.
    right = {"facts": {}, "random": {}}
    for arm, seed in itertools.product(right, config["seeds"]):
        for one in answers[f"{arm}/seed-{seed}/paper/2"].to_dict("records"):
            right[arm].setdefault(one["field"], []).append(100 * (one["chosen"] == one["answer"]))
    (row,) = [row for row in rows if (row["arm"], row["measure"]) == ("facts", "choice_accuracy")]
    assert float(row["mean"]) == pytest.approx(np.mean(list(right["facts"].values())))
    cells = [f"{np.mean(values):.1f}" for values in right["facts"].values()]
    assert re.findall(r"[\d.]+", row_of(markdown, "paper, right choice, % by field", "facts")) == cells
    differences = [np.mean(right["facts"][field]) - np.mean(right["random"][field]) for field in right["facts"]]
    row = row_of(markdown, "paper, right choice, % by field, minus random", "facts")
    assert re.findall(r"\| (\S+) \[", row) == [f"{difference:+.1f}" for difference in differences]
    for picture in ("scores", "curves", "keep_probabilities"):
        assert (results / f"{picture}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_python_that_is_not_warm_makes_the_same_table(clone, results, tmp_path):
    """What a script of the workflow forgets to import is missing here."""
    made = ("results", "data_augmented", ".snakemake", "smoke")
    shutil.copytree(clone, tmp_path / "clone", ignore=shutil.ignore_patterns(*made))
    command = [SNAKEMAKE, "--configfile", "conf/tables/smoke.yaml", "--cores", "2"]
    subprocess.run(command, cwd=tmp_path / "clone", check=True, capture_output=True)
    for name in ("table.md", "table.csv", "answers.parquet", "keep_probabilities.json"):
        assert (tmp_path / "clone/results/smoke" / name).read_bytes() == (results / name).read_bytes(), name


def test_guided_arms_drop_as_much_and_keep_other_tokens(clone, results, monkeypatch):
    kept = json.loads((results / "keep_probabilities.json").read_text())["arms"]
    guided = [arm for arm in ARMS if arm not in ("none", "random")]
    assert set(kept["none"]) == {1.0}
    assert len({tuple(kept[arm]) for arm in guided}) == len(guided)
    # Wherever the keys stand.
    config = read(ROOT / "conf/tables/smoke.yaml")
    own_keys = {"augment_type": "attention", "alpha": 0.7, "beta": 0.05, "multiply": 2, "attn_weights": "difference"}
    monkeypatch.chdir(clone)
    for section, arm in (({}, own_keys), (own_keys, {}), (None, own_keys)):
        changed = config | {"data_augmentation": section, "arms": {"arm_1": arm}}
        check.check_table(changed | {"against": []})
        assert keep_probabilities(changed, "tables_out/smoke")["arms"]["arm_1"] == kept["difference"]
    # By the formulas: alpha * (1 - exp(-beta * rank)) is dropped, and a share of 1 - alpha at random.
    row = attention_dump.read_dump(clone / "tables_out/smoke/difference").rows[0]
    tokens = json.loads((results / "keep_probabilities.json").read_text())["tokens"]
    ranked = sorted(range(len(tokens)), key=lambda token: -row.values[token])
    for token, word in enumerate(tokens):
        stays = word.strip() in (",", ".")
        dropped = 0.7 * (1 - math.exp(-0.05 * ranked.index(token)))
        # Rounded to four digits.
        assert kept["difference"][token] == pytest.approx(1.0 if stays else 1 - dropped, abs=6e-5)
        assert kept["random"][token] == (1.0 if stays else 0.55)
    # Of a text that is not committed no words.
    without = keep_probabilities(config | {"made_by": "a command"}, "tables_out/smoke")
    assert without["arms"] == kept and without["tokens"] == [str(place) for place in range(len(kept["none"]))]
    # The same probabilities in another order, but for the commas and full stops, which always stay.
    highest = [np.mean(sorted(kept[arm])[:40]) for arm in guided]
    np.testing.assert_allclose(highest, highest[0], atol=0.03)


def test_finished_runs_are_not_made_again(clone, snakemake, results, warm_python):
    assert "Nothing to be done" in snakemake("-n")
    assert not (clone / "tables_out/smoke/runs").exists()
    # A fresh clone has the results and nothing else; the files' ages mean nothing in it.
    for folder in ("tables_out/smoke", "data_augmented/smoke", ".snakemake"):
        shutil.rmtree(clone / folder)
    (clone / "data/biography_synthetic.csv").touch()
    before, answers = (results / "table.csv").read_bytes(), (results / "answers.parquet").read_bytes()
    planned = snakemake("-n", "--forcerun", "tables")
    assert "rule train" not in planned
    assert "rule augmentation" not in planned
    snakemake("--forcerun", "tables")
    assert (results / "table.csv").read_bytes() == before
    # A run that is gone is made again, by itself, and comes out the same.
    command = [warm_python, "-m", "workflow.results", "forget", "smoke", "facts/seed-2"]
    subprocess.run(command, cwd=clone, check=True)
    assert not any("facts/seed-2" in name for entries in read_study(results) for name in entries)
    planned = snakemake("-n")
    assert planned.count("rule train:") == 1
    assert planned.count("seed=1") == 0
    # Interrupted before its run is added, the table goes on from there.
    snakemake("--until", "evaluate", "run_record")
    assert (results / "answers.parquet").read_bytes() != answers
    planned = snakemake("-n")
    assert "rule train:" not in planned and "rule tables:" in planned
    snakemake()
    assert (results / "answers.parquet").read_bytes() == answers
    assert (results / "table.csv").read_bytes() == before
    assert "Nothing to be done" in snakemake("-n")


def test_other_texts_are_augmented_anew(clone, snakemake, results, tmp_path, monkeypatch):
    augmented = clone / "data_augmented/smoke/random-2.csv"
    for path in (augmented, augmented.with_suffix(".json")):
        path.touch()
    files = [shutil.copy(path, tmp_path) for path in files_of(results)]
    monkeypatch.chdir(clone)
    forget("smoke", "random/seed-2")
    assert "rule augmentation" not in snakemake("-n")
    texts = clone / "data/biography_synthetic.csv"
    before, age = texts.read_bytes(), texts.stat()
    # Snakemake compares contents as well as ages.
    texts.write_bytes(before.replace(b"</company>", b" Ltd</company>", 1))
    assert "rule augmentation" in snakemake("-n")
    texts.write_bytes(before)
    os.utime(texts, ns=(age.st_atime_ns, age.st_mtime_ns))
    for path in files:
        shutil.copy(path, results)


def test_a_table_of_free_questions_is_over_paragraphs(clone, snakemake):
    snakemake(name="smoke_paragraphs")
    results = clone / "results/smoke_paragraphs"
    markdown = (results / "table.md").read_text()
    about = "2 seeds, 6 paragraphs asked about. A paragraph's score is the mean over its questions, and each"
    assert about in markdown and "bootstrap over paragraphs and seeds" in markdown
    with open(results / "table.csv", newline="") as opened:
        rows = list(csv.DictReader(opened))
    # Some questions have no choice.
    assert {row["measure"] for row in rows} == {"exact_match", "f1", "log_likelihood"}
    # Means over the questions of each paragraph, then over paragraphs and seeds; by group likewise.
    paragraph_means, scores_by_group = [], {}
    for seed in (1, 2):
        scores_by_paragraph = {}
        for one in read_study(results).answers[f"difference/seed-{seed}/few_shot/1"].to_dict("records"):
            scores_by_paragraph.setdefault(one["name"], []).append(one["log_likelihood"])
            group_scores = scores_by_group.setdefault(one["field"], {})
            group_scores.setdefault((seed, one["name"]), []).append(one["log_likelihood"])
        assert sorted(map(len, scores_by_paragraph.values())) == [2, 2, 3, 3, 3, 3]
        paragraph_means += [sum(likelihoods) / len(likelihoods) for likelihoods in scores_by_paragraph.values()]
    (row,) = [row for row in rows if (row["arm"], row["measure"]) == ("difference", "log_likelihood")]
    assert float(row["mean"]) == pytest.approx(sum(paragraph_means) / 12)
    assert float(row["low"]) < float(row["mean"]) < float(row["high"])
    assert list(scores_by_group) == ["who", "what", "yes_or_no"]
    cells = [
        f"{np.mean([np.mean(likelihoods) for likelihoods in group_scores.values()]):.2f}"
        for group_scores in scores_by_group.values()
    ]
    assert re.findall(r"-[\d.]+", row_of(markdown, "few_shot, log-likelihood by field", "difference")) == cells
    assert not re.search("right choice, % by field|differences of right choice", markdown)
    made = read_study(results).records["untrained/few_shot/metrics.json"]["config"]
    assert (made["dataset"], made["prompts"], made["questions"]) == (None, None, "data/example_questions.csv")
    assert "Nothing to be done" in snakemake("-n", name="smoke_paragraphs")
    config = read(ROOT / "conf/tables/smoke_paragraphs.yaml")
    check.check_results(config, results)
    config["evaluations"]["few_shot"]["template"] = "Q: {question}"
    with pytest.raises(InputError, match=r"different template from those the table has now; .* untrained none/seed-1 "):
        check.check_results(config, results)


FREE = {"questions": "data/example_questions.csv"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"questions": "none.csv"}, "evaluations.few_shot.questions=none.csv: no such file"),
        (
            {"group": "title"},
            r"evaluations.few_shot: group=title: data/example_questions.csv: row 1 has no such column",
        ),
        ({"shots": 14}, r"evaluations.few_shot: shots=14: the examples have 13 questions about paragraphs other"),
        ({"template": "Answer:"}, r"evaluations.few_shot: template must hold {question}"),
        ({"people": 3}, r"evaluations.few_shot: people: leave it out; questions=..."),
        ({"questions": None}, r"evaluations.few_shot: group: leave it out, or give questions=..."),
        (
            {"questions": None, "group": None, "prompts": "none.csv", "template": None},
            "evaluations.few_shot: prompts=none.csv: no such",
        ),
    ],
)
def test_a_tables_free_questions_are_checked_before_anything_runs(changed, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = read(ROOT / "conf/tables/smoke_paragraphs.yaml")
    config["evaluations"]["few_shot"] |= changed
    with pytest.raises(InputError, match=message):
        check.check_table(config)


def test_paragraphs_are_reported_and_chosen_on(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    config = read(ROOT / "conf/tables/smoke_epochs.yaml") | {"evaluations": {"free": FREE}, "evaluate": {}}
    check.check_table(config)
    with pytest.raises(InputError, match="reported=6: evaluations.free asks about 6 paragraphs, of which some must be"):
        check.check_table(config | {"reported": 6})
    one = tmp_path / "one.csv"
    one.write_text("paragraph,question,answer\np,Who?,Ada\np,Where?,Osk\n")
    config["evaluations"] = {"free": {"questions": str(one), "shots": 0}}
    with pytest.raises(InputError, match=r"^evaluations.free: .*one.csv: must ask about at least two paragraphs"):
        check.check_table(config)


def test_results_of_other_settings_are_refused_before_anything_runs(snakemake, results, tmp_path):
    config = read(ROOT / "conf/tables/smoke.yaml")
    check.check_results(config, results)
    with pytest.raises(
        InputError,
        match=r"different tokens from those .*: python -m .* forget smoke none/seed-1 none/s",
    ):
        check.check_results(config | {"tokens": 5000}, results)
    for other in (4, None):
        with pytest.raises(
            InputError, match=r"with different people from those the table has now.* forget smoke untrained none/seed-1"
        ):
            check.check_results(config | {"evaluate": {"people": other} if other else {}}, results)
    with pytest.raises(InputError, match=r"different processes from those the table has now"):
        check.check_results(config | {"resources": {"train": {"processes": 2}}}, results)
    with pytest.raises(InputError, match=r"different seed from those .*: rm .*/keep_probabilities.json$"):
        check.check_results(config | {"seeds": [2, 1]}, results)
    arms = config["arms"] | {"more": {"augment_type": "random", "alpha": 0.3}}
    with pytest.raises(InputError, match=r"different arms from those .*: rm .*/keep_probabilities.json$"):
        check.check_results(config | {"arms": arms}, results)
    # Nobody has trained the untrained model otherwise.
    alone = tmp_path / "smoke"
    write_answers(alone, {"untrained/paper": read_study(results).answers["untrained/paper"]})
    write_records(alone, {name: read_study(results).records[name] for name in ["untrained/paper/metrics.json"]})
    with pytest.raises(InputError, match=r"different model from those the table has now; .* untrained$"):
        check.check_results(config | {"trained": config["large"]}, alone)
    # What waits to be added is checked as well.
    artifacts.write_json(tmp_path / "made/none/seed-1/run.json", read_study(results).records["none/seed-1/run.json"])
    check.check_results(config, alone, tmp_path / "made")
    with pytest.raises(InputError, match=r"different tokens from those .* forget smoke none/seed-1$"):
        check.check_results(config | {"tokens": 5000}, alone, tmp_path / "made")
    with pytest.raises(InputError, match=r"with different quant from those the table has now"):
        check.check_results(config | {"evaluate": config["evaluate"] | {"quant.load_in_8bit": True}}, results)
    assert "made with different tokens" in snakemake("-n", "--config", "tokens=5000", code=1)


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_the_committed_results_are_of_the_tables_settings(path):
    """Though the statements had another name when they were asked; the questions that are asked now never had it."""
    config = read(path)
    results = ROOT / "results" / config["table"]
    # None, or a protocol that was written before its runs.
    if config["table"].startswith("smoke") or not read_study(results).records:
        return
    check.check_results(config, results)
    if all("questions" in options for options in config["evaluations"].values()):
        with pytest.raises(InputError, match="made with different template from those the table has now"):
            check.check_results(config | {"evaluate": {"template": "{question}"}}, results)
        return
    others = {"data/prompts_questions.csv": "data/prompts_statements.csv"}
    evaluations = {
        name: options | {"prompts": others.get(options["prompts"], "data/prompts_questions.csv")}
        for name, options in config["evaluations"].items()
    }
    with pytest.raises(InputError, match="made with different prompts from those the table has now"):
        check.check_results(config | {"evaluations": evaluations}, results)


# With a budget in tokens, and with one in epochs.
FAST_STUDIES = ("biographies_cpu", "paper_qwen_0.5b")
STUDIES = sorted(path.parent.name for path in (ROOT / "results").glob("*/table.md"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST_STUDIES else pytest.mark.slow) for name in STUDIES]
)
def test_a_committed_table_is_made_of_its_results(tmp_path, monkeypatch, name):
    monkeypatch.setattr(pictures, "save", lambda figure, path: pictures.pyplot.close(figure))  # slow to draw
    committed = ROOT / "results" / name
    results = tmp_path / name
    shutil.copytree(committed, results, ignore=shutil.ignore_patterns("table.*", "*.png"))
    summary.summarize(read(ROOT / f"conf/tables/{name}.yaml"), results)
    for file in ("table.md", "table.csv", "table.tex"):
        assert (results / file).read_bytes() == (committed / file).read_bytes(), file


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_table_can_be_planned(clone, snakemake, path):
    config = read(path)
    planned = snakemake("-n", name=path.stem)
    if not config["table"].startswith("smoke"):
        trained = len(config["arms"]) * len(config["seeds"]) * len(config.get("learning_rates", [None]))
        assert re.search(rf"^train +{trained}$", planned, re.MULTILINE)
        asked = trained * len(config["evaluations"])
        assert re.search(rf"^evaluate +{asked}$", planned, re.MULTILINE)
        if "difference_before_fields" in config["arms"]:
            # Both models, by the table's keys and by the arm's.
            assert re.search("^attention +4$", planned, re.MULTILINE)
            assert re.search("^contrast +2$", planned, re.MULTILINE)


def test_the_documented_slurm_command_asks_for_gpus_where_a_model_is_loaded(clone, warm_python):
    page = (ROOT / "docs/gpus.md").read_text(encoding="utf-8")
    (typed,) = re.findall(r"^HF_HUB_OFFLINE=1 snakemake (--profile (?:.*\\\n)+.*)$", page, re.MULTILINE)
    command = [warm_python, SNAKEMAKE, *shlex.split(typed.replace("\\\n", " ")), "-n"]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = re.findall(r"^(?:local)?rule (\w+):\n(?:    .*\n)*?    resources: (.*)", done.stdout, re.MULTILINE)
    on_gpus = {"attention", "train", "evaluate", "evaluate_untrained"}
    assert {rule for rule, _ in jobs} > on_gpus
    assert len(jobs) == len(re.findall(r"^(?:local)?rule \w+:$", done.stdout, re.MULTILINE))
    for rule, asked in jobs:
        resources = dict(one.split("=", 1) for one in asked.split(", "))
        assert resources["slurm_account"] == "ACCOUNT"
        assert int(resources["runtime"]) > 0 and int(resources["mem_mb"]) > 0
        assert resources["nodes"] == "1"
        assert resources["slurm_partition"] == ("gpu" if rule in on_gpus else "cpu"), rule
        assert ("gpu" in resources) == (rule in on_gpus), rule
        assert ("gpu_model" in resources) == (rule == "attention"), rule


@pytest.mark.parametrize("path", [path for path in TABLES if "made_by" in read(path)], ids=lambda path: path.stem)
def test_paragraphs_that_are_not_there_are_made_by_the_tables_command(path, tmp_path, monkeypatch):
    config = read(path)
    command = ["python", "data/draw_paragraphs.py", "--paragraphs", "100", "--seed", "1", "--output"]
    words = config["made_by"].split()
    assert words[:2] + words[3:-1] == command
    monkeypatch.chdir(tmp_path)
    (tmp_path / "squad.json").write_text(json.dumps(squad(150)))
    draw_paragraphs.main("squad.json", 100, 1, words[-1])
    check.check_table(config)
    for missing in sorted(Path("data_drawn").iterdir()):
        missing.rename("elsewhere")
        with pytest.raises(InputError) as raised:
            check.check_table(config)
        assert str(raised.value) == f"{missing}: no such file; make it by: {config['made_by']}"
        Path("elsewhere").rename(missing)
    with pytest.raises(InputError, match="^made_by=3: must be text"):
        check.check_table(config | {"made_by": 3})


@pytest.mark.parametrize("name", SOURCES)
def test_a_model_that_a_table_needs_is_fetched(clone, snakemake, name):
    planned = snakemake("-n", "--config", "table=fetched", f"large=models/{name}")
    assert re.search(r"^fetch_model +1$", planned, re.MULTILINE)
    assert f"output: models/{name}\n" in planned


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokens": None}, "smoke: still needed: tokens"),
        ({"tokns": 1}, "unknown key tokns: did you mean tokens"),
        ({"seeds": [1]}, "give at least two seeds"),
        (
            {"against": [], "arms": {"odd": {"attn_weights": "odd"}}},
            "arms.odd.attn_weights=odd: must be one of: attention_large",
        ),
        ({"against": [], "arms": {"odd": {"augment_type": "random"}}}, "arms.odd: still needed: alpha"),
        (
            {"against": [], "arms": {"odd": {"augment_type": "attention", "alpha": 0.7}}},
            "arms.odd: augment_type=attention needs beta",
        ),
        (
            {"against": [], "arms": {"odd": {"augment_type": "random", "alpha": 0.7, "beta": 0.05}}},
            "arms.odd: beta has no meaning for augment_type=random",
        ),
        ({"against": [], "arms": {"Odd-1": None}}, "Odd-1: name an arm or an evaluation with lower-case letters"),
        ({"train": {"lora": {"r": 8}}}, "train.lora: as on a command line, each with its dot: lora.r"),
        ({"seeds": 5}, "seeds=5: must hold a list"),
        ({"measures": []}, r"measures=\[\]: must hold at least one"),
        ({"evaluations": {}}, "evaluations={}: must hold at least one"),
        ({"table": 2025}, "table=2025: must be text; quote it"),
        ({"table": ".."}, r"table=\.\.: must be a folder's name"),
        ({"dataset": 3}, "dataset=3: must be text; quote it"),
        ({"large": 5}, "large=5: must be text; quote it"),
        ({"against": [], "arms": {1: None}}, "1: name an arm or an evaluation"),
        ({"evaluations": {"paper": [1]}}, r"evaluations.paper=\[1\]: must hold keys and values, or be null"),
        ({"train": "x"}, "train=x: must hold keys and values, or be null"),
        ({"resources": [1]}, r"resources=\[1\]: must hold keys and values, or be null"),
        ({"resources": {"train": 1}}, "resources.train=1: must hold keys and values, or be null"),
        ({"dataset": "data/{x}.csv"}, r"dataset=data/{x}.csv: Snakemake reads braces as a wildcard"),
        ({"seeds": [1, 1]}, r"seeds=\[1, 1\]: duplicate seed 1"),
        ({"seeds": [1, -1]}, "seeds=-1: must be a whole number from 0"),
        ({"tokens": 0}, "tokens=0: must be a whole number from 1"),
        ({"checkpoints": 2.5}, "checkpoints=2.5: must be a whole number from 1"),
        ({"train": {"seed": 7}}, "train.seed: leave it out"),
        ({"train": {"trainer.max_steps": 7}}, "train.trainer.max_steps: leave it out"),
        ({"train": {"trainer.learning_rate": "fast"}}, "train.trainer.learning_rate=fast: must be a number"),
        ({"resources": {"trian": {"gpu": 1}}}, "resources: unknown key trian: did you mean train"),
        ({"evaluate": {"people": 1}}, "evaluations.paper: people=1: give at least two"),
        ({"measures": ["loss"]}, "measures=loss: must be of: exact_match"),
        ({"against": ["nobody"]}, "against=nobody: no such arm"),
        ({"target": "medium"}, "target=medium: must be one of"),
        ({"against": [], "arms": {"odd": {"alfa": 0.5}}}, "arms.odd: unknown key alfa: did you mean alpha"),
        ({"against": [], "arms": {"odd": {"alpha": 5.5}}}, "arms.odd.alpha=5.5: must be a number from 0 to 1"),
        ({"data_augmentation": {"multply": 2}}, "data_augmentation: unknown key multply: did you mean multiply"),
        ({"train": {"lerning_rate": 1}}, "train: unknown key lerning_rate"),
        ({"train": {"trainer.loging_steps": 1}}, "trainer: unknown key loging_steps: did you mean logging_steps"),
        ({"train": {"trainer.adam_beta2": "high"}}, "train: trainer.adam_beta2=high: must be a number"),
        ({"evaluate": {"people": -3}}, "evaluate.people=-3: must be"),
        ({"evaluations": {"paper": {"shotz": 2}}}, "evaluations.paper: unknown key shotz: did you mean shots"),
        ({"resources": {"train": {"thread": 1}}}, "resources.train: unknown key thread: did you mean threads"),
    ],
)
def test_a_table_is_checked(changed, message):
    with pytest.raises(InputError, match=message):
        check.check_table(read(ROOT / "conf/tables/smoke.yaml") | changed)


def test_each_job_that_loads_a_model_counts_as_one_on_the_gpu(snakemake):
    # Of a table without results.
    planned = snakemake("-n", "--config", "table=unmade") + snakemake("-n", "--forceall", name="../figures")
    jobs = re.findall(r"^(?:local)?rule (\w+):\n(.*?)(?=^\n|^\[|\Z)", planned, re.MULTILINE | re.DOTALL)
    counted = {rule for rule, about in jobs if "gpu_jobs=1" in about}
    assert counted == {"attention", "train", "evaluate", "evaluate_untrained"}
    assert all("gpu_jobs=1" in about for rule, about in jobs if rule in counted)


@pytest.mark.parametrize("target", ["tables", "figures", "smoke"])
def test_make_has_one_job_at_a_time_on_a_gpu(target):
    for gpu, expected in (("/dev/nvidia0", 1), ("", 0)):
        said = subprocess.run(
            ["make", "-n", target, f"GPU={gpu}"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        (command,) = [line for line in said.stdout.splitlines() if "snakemake --configfile" in line]
        assert command.count("--resources gpu_jobs=1") == expected, command


def test_two_values_of_one_key_are_refused(clone, snakemake):
    table = (clone / "conf/tables/smoke.yaml").read_text()
    line = table.splitlines().index("  none: null") + 2
    twice = table.replace("  none: null\n", "  none: null\n  none: {epochs: 1}\n")
    (clone / "conf/tables/twice.yaml").write_text(twice)
    try:
        said = snakemake("-n", name="twice", code=1)
    finally:
        (clone / "conf/tables/twice.yaml").unlink()
    assert f"conf/tables/twice.yaml: line {line}: duplicate key none\n" in said


def test_keys_that_are_not_twice_in_one_place_are_no_duplicates(tmp_path):
    written = "a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b}\nd: [{x: 1}, {x: 1}]\n2: 1\n'2': 1\n"
    (tmp_path / "table.yaml").write_text(written)
    (tmp_path / "table.json").write_text('{\n\t"a": {"x": 1}\n}')
    for path in [*tmp_path.iterdir(), *(ROOT / "conf").rglob("*.yaml")]:
        check.check_unique_keys(path)
    (tmp_path / "table.yaml").write_text("d: [{x: 1}, {\nx: 1, x: 2}]")
    with pytest.raises(InputError, match="table.yaml: line 2: duplicate key x$"):
        check.check_unique_keys(tmp_path / "table.yaml")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokens": 4000}, "epochs: leave it out, or tokens; a table's budget is in tokens or in epochs"),
        ({"tokens": 4000, "epochs": None}, "learning_rates: leave it out, or tokens"),
        ({"tokens": 4000, "epochs": None, "learning_rates": None}, "reported: leave it out, or tokens"),
        ({"epochs": None}, "smoke_epochs: still needed: tokens, or epochs, learning_rates, reported"),
        ({"learning_rates": None}, "smoke_epochs: still needed: learning_rates$"),
        ({"learning_rates": None, "reported": None}, "smoke_epochs: still needed: learning_rates, reported$"),
        ({"epochs": 2.5}, "epochs=2.5: must be a whole number from 1"),
        ({"epochs": 3}, "checkpoints=2: must divide epochs=3"),
        ({"epochs": 1}, "checkpoints=2: must divide epochs=1"),
        ({"arms": {"none": {"epochs": 3}}}, "checkpoints=2: must divide arms.none.epochs=3"),
        ({"arms": {"none": {"epochs": True}}}, "arms.none.epochs=True: must be a whole number from 1"),
        ({"learning_rates": 0.001}, "learning_rates=0.001: must hold a list"),
        ({"learning_rates": []}, r"learning_rates=\[\]: must hold a list"),
        ({"learning_rates": ["5e-5"]}, "learning_rates=5e-5: must be a number"),
        ({"learning_rates": [0.0]}, "learning_rates=0.0: must be above 0 and below 1"),
        ({"learning_rates": [0.001, 0.001]}, r"learning_rates=\[0.001, 0.001\]: duplicate 0.001"),
        (
            {"train": {"trainer.learning_rate": 0.001}},
            "trainer.learning_rate: leave it out; the table's learning_rates",
        ),
        ({"arms": {"none": {"train": {"trainer.learning_rate": 0.001}}}}, "trainer.learning_rate: leave it out"),
        ({"reported": 1}, "reported=1: give at least two"),
        ({"reported": 0}, "reported=0: must be a whole number from 1"),
        ({"reported": 5}, "reported=5: evaluations.questions asks 5 people, of whom some must be left to choose on"),
        ({"evaluate": {}, "reported": 101}, "reported=101: evaluations.questions asks 100 people"),
        ({"dataset": "data/nobody.csv"}, "data/nobody.csv: no such file"),
        ({"arms": {"none": {"train": {"lerning_rate": 1}}}}, "arms.none.train: unknown key lerning_rate"),
        ({"arms": {"none": "plain"}}, "arms.none=plain: must hold keys and values, or be null"),
        ({"arms": {"none": {"train": 5}}}, "arms.none.train=5: must hold keys and values"),
        ({"arms": {"none": {"train": {"trainer.max_steps": 5}}}}, "arms.none.train.trainer.max_steps: leave it out"),
        ({"arms": {"odd": {"train": {}, "alpha": 0.5}}}, "arms.odd: still needed: augment_type"),
    ],
)
def test_a_table_in_epochs_is_checked(changed, message):
    with pytest.raises(InputError, match=message):
        check.check_table(read(ROOT / "conf/tables/smoke_epochs.yaml") | changed)


def test_an_arm_may_be_trained_otherwise():
    config = {"train": {"lora.r": 8, "packing": True}, "data_augmentation": {"multiply": 2}}
    config["arms"] = {"none": None, "own": {"train": {"lora.r": 4}}, "random": {"alpha": 0.5, "train": {"lora.r": 2}}}
    assert [training_of(config, arm)["lora.r"] for arm in config["arms"]] == [8, 4, 2]
    assert all(training_of(config, arm)["packing"] for arm in config["arms"])
    assert [augmentation_of(config, arm) for arm in config["arms"]] == [{}, {}, {"multiply": 2, "alpha": 0.5}]


def test_a_control_has_a_dump_for_each_seed():
    guides = ("log_ratio", "shuffled", "facts", "name_first")
    config = {"seeds": [3, 1], "arms": {"none": None} | {guide: {"attn_weights": guide} for guide in guides}}
    assert dumps_of(config) == ["facts-3", "log_ratio", "name_first-3", "shuffled-3"]


def test_a_rule_may_use_what_the_table_says_and_else_the_defaults():
    config = {"resources": {"train": {"gpu": 1}}}
    assert needs(config, "train") == RESOURCES | {"gpu": 1}
    assert needs(config, "evaluate") == needs({}, "train") == RESOURCES
    config = {"resources": {"attention": {"gpu": 2, "threads": 4}, "attention_small": {"gpu": 1}}}
    assert needs(config, "attention_large") == RESOURCES | {"gpu": 2, "threads": 4}
    assert needs(config, "attention_small") == RESOURCES | {"gpu": 1, "threads": 4}


def test_keys_that_a_library_knows_are_let_through():
    config = read(ROOT / "conf/tables/smoke.yaml")
    config["train"] |= {"trainer.adam_beta2": 0.95, "trainer.fsdp_config.min_num_params": 1, "lora.r": 4}
    config["save_attention"] = {"quant.load_in_8bit": True}
    check.check_table(config)


def test_a_difference_before_the_fields_has_dumps_of_its_own(clone, snakemake):
    folder = "tables_out/before_fields"
    snakemake(f"{folder}/difference_before_fields.pkl", "--config", "table=before_fields")
    made = attention_dump.read_dump(clone / folder / "difference_before_fields")
    assert made.settings["queries"] == "before_fields"
    names = {path.stem for path in (clone / folder).glob("*.pkl")}
    assert names == {f"{of}_before_fields" for of in ("attention_large", "attention_small", "difference")}


def test_people_are_paired_by_name(clone, results, tmp_path):
    config = read(ROOT / "conf/tables/smoke.yaml")
    shutil.copytree(results, tmp_path / "smoke")
    asked = "facts/seed-2/paper/2"
    answers = read_study(results).answers[asked]
    renamed = answers.assign(name=answers["name"].str.replace("Patricia", "Patrizia"))
    write_answers(tmp_path / "smoke", read_study(results).answers | {asked: renamed})
    with pytest.raises(InputError, match="facts/seed-2/paper/2 and untrained were asked about different people"):
        summary.collect(config, tmp_path / "smoke", selection.choose(config, tmp_path / "smoke"))


def test_a_run_too_short_for_a_logged_loss_has_none(clone, results, tmp_path):
    config = read(ROOT / "conf/tables/smoke.yaml")
    chosen = selection.choose(config, results)
    runs = summary.read_runs(config, results, chosen)
    runs["random"][1]["loss"] = []
    assert summary.what_was_trained_on(config, runs).set_index("arm")["last loss"].isna().to_dict() == {
        arm: arm == "random" for arm in ARMS
    }
    pictures.curves(config, results, runs, chosen, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()


def test_seeds_of_a_few_steps_more_have_one_curve(clone, results, tmp_path):
    config = read(ROOT / "conf/tables/smoke.yaml")
    chosen = selection.choose(config, results)
    runs = summary.read_runs(config, results, chosen)
    runs["random"][1]["loss"].append([100, 1.0])
    pictures.curves(config, results, runs, chosen, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()


def test_one_evaluation_of_a_table_may_be_without_choices(clone, results, tmp_path):
    config = read(ROOT / "conf/tables/smoke.yaml")
    config["evaluations"] = config["evaluations"] | {"own_words": {"choice": False}}
    config["measures"] = ["log_likelihood", "choice_accuracy"]
    shutil.copytree(results, tmp_path / "smoke")
    records, answers = read_study(results)
    for name, metrics in list(records.items()):
        if "/paper" in name:
            average = metrics["average"] | {"choice_accuracy": None}
            records = records | {name.replace("/paper", "/own_words"): metrics | {"average": average}}
    own_words = {asked.replace("/paper", "/own_words"): frame.assign(chosen="") for asked, frame in answers.items()}
    write_answers(tmp_path / "smoke", answers | own_words)
    write_records(tmp_path / "smoke", records)
    summary.summarize(config, tmp_path / "smoke")

    headings = [line for line in (tmp_path / "smoke/table.md").read_text().splitlines() if line.startswith("## ")]
    assert [heading for heading in headings if "by field, minus" not in heading] == [
        "## paper",
        "## paper, differences of log-likelihood",
        "## paper, differences of right choice, %",
        "## own_words",
        "## own_words, differences of log-likelihood",
        "## paper, log-likelihood by field",
        "## paper, right choice, % by field",
        "## own_words, log-likelihood by field",
        "## What was trained on",
    ]
    pair_headings = [f"## own_words, log-likelihood by field, minus {other}" for other in config["against"]]
    assert [
        heading for heading in headings if heading.startswith("## own_words, log-likelihood by field, minus")
    ] == pair_headings

    summary.summarize(config | {"against": []}, tmp_path / "smoke")
    assert not re.search("^## .*(differences|minus)", (tmp_path / "smoke/table.md").read_text(), re.MULTILINE)


def test_a_person_without_a_field_is_left_out_of_it_alone(tmp_path):
    answers = {}
    for seed, bob_score in ((1, -4), (2, -5)):
        lines = [("city", "Ann", -1), ("city", "Bob", -2), ("date", "Bob", bob_score)]
        answers[f"arm/seed-{seed}/paper/1"] = [answer(*line) for line in lines]
    add_answers(tmp_path / "table", answers)
    found = summary.scores_by_field(tmp_path / "table", list(answers), "log_likelihood")
    assert {field: values.tolist() for field, values in found.items()} == {
        "city": [[-1, -2], [-1, -2]],
        "date": [[-4], [-5]],
    }


def test_names_and_answers_that_are_all_numbers_are_texts(tmp_path):
    rows = [answer("year", "007", answer="1950", chosen="1950"), answer("year", "7", answer="01950", chosen="1950")]
    add_answers(tmp_path / "table", {"untrained/paper": rows})
    scores_of_names = summary.read_scores(tmp_path / "table", "untrained/paper")
    assert scores_of_names["choice_accuracy"].to_dict() == {"007": 100, "7": 0}
    # As in a folder that evaluate.py wrote.
    artifacts.write_csv(tmp_path / "predictions.csv", rows)
    pd.testing.assert_frame_equal(summary.read_scores(tmp_path), scores_of_names)


def test_a_bad_table_is_one_line(snakemake):
    output = snakemake("--config", "target=medium", code=1)
    assert "target=medium: must be one of: small, large" in output
    assert "Traceback" not in output


def test_an_epochs_last_step_has_fewer_texts():
    sizes = [len(range(100)[first : first + 16]) for first in range(0, 100, 16)]
    assert budget.texts_in_step(100, 16) == np.mean(sizes)
    assert budget.texts_in_step(96, 16) == 16
    # Seven batches of 16, two to a step.
    assert budget.texts_in_step(100, 16, accumulated=2) == 100 / 4


@pytest.mark.parametrize(("texts", "processes"), [(100, 2), (100, 8), (1000, 2)])
def test_several_processes_fill_their_last_batches_up(texts, processes):
    batches = BatchSampler(range(texts), batch_size=8, drop_last=False)
    process_batches = [list(BatchSamplerShard(batches, processes, index)) for index in range(processes)]
    steps = [sum(map(len, step_batches)) for step_batches in zip(*process_batches, strict=True)]
    assert budget.texts_in_step(texts, 8, processes=processes) == np.mean(steps)


def test_steps_make_the_budget():
    # 4 checkpoints of 25 steps of 8 texts of 50 tokens are 40,000 tokens.
    assert budget.steps_for(40_000, 50.0, 8, 4) == (100, 25)
    assert budget.steps_for(41_000, 50.0, 8, 4) == (104, 26)
    assert budget.steps_for(1, 50.0, 8, 4) == (4, 1)


def test_a_budget_counts_the_windows_of_long_texts(tiny_model, tmp_path):
    texts = [" born" * count for count in (3, 30, 61)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    whole = budget.lengths(str(tiny_model), str(tmp_path / "texts.jsonl"), None, None)
    window, stride = 20, 7
    found = budget.lengths(str(tiny_model), str(tmp_path / "texts.jsonl"), window, stride)
    # A bos token begins each window.
    more = [math.ceil(max(0, length - window) / stride) for length in whole]
    assert len(found) == len(texts) + sum(more) and max(found) == window
    assert found.count(window) >= sum(more)


def test_a_budget_counts_what_the_tokenizer_gives(tmp_path):
    """train.py feeds no BOS token that the tokenizer does not add."""
    texts = ["Ada was born in Lyon.", "Bo"]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for adds_bos in (True, False):
        folder = tiny.save(tmp_path / f"bos-{adds_bos}", "llama", adds_bos=adds_bos)
        expected = [len(ids) for ids in load_tokenizer(str(folder))(texts)["input_ids"]]
        assert budget.lengths(str(folder), str(tmp_path / "texts.jsonl"), None, None) == expected


def test_a_table_in_epochs_is_made(clone, snakemake):
    config = read(ROOT / "conf/tables/smoke_epochs.yaml")
    # One of its learning rates, the other later. Untouched texts have epochs of their own.
    changed = config | {"learning_rates": [0.01]}
    (clone / "conf/tables/one_rate.yaml").write_text(yaml.safe_dump(changed))
    snakemake(name="one_rate")
    results = clone / "results/smoke_epochs"
    # 100 texts in batches of 50, four times.
    assert read_study(results).records["none/seed-1-rate-0.01/run.json"]["steps"] == 8
    assert settings_of(changed | {"epochs": 4}, "none") == settings_of(changed, "none")
    reported_means = []
    for seed in config["seeds"]:
        records, found = read_study(results)
        run = f"random/seed-{seed}-rate-0.01"
        # 200 texts in batches of 50, twice.
        assert records[f"{run}/run.json"]["steps"] == 8
        for part in (1, 2):
            asked = records[f"{run}/questions/{part}/metrics.json"]["config"]
            assert asked["model_dir"].endswith(f"random-{seed}-rate-0.01.model/checkpoint-{4 * part}")
        answers = found[f"{run}/questions/1"]
        # Nothing is right after so little, so the earliest is taken; of five people three are reported.
        assert not answers["exact_match"].any() and not answers["f1"].any()
        reported_means += [field_answers["log_likelihood"][:3].mean() for _, field_answers in answers.groupby("field")]
    markdown = (results / "table.md").read_text()
    for way in ("chosen on the others", "chosen on the reported"):
        assert row_of(markdown, f"questions, {way}", "random").split()[-4] == f"{np.mean(reported_means):.2f}"
    assert re.findall(r"[\d.]+, epoch \d", row_of(markdown, "What was chosen", "random")) == ["0.01, epoch 1"] * 2
    assert re.findall(r"[\d.]+, epoch \d", row_of(markdown, "What was chosen", "none")) == ["0.01, epoch 2"] * 2
    assert "for 2 epochs, none for 4, at each learning rate (0.01)" in markdown
    assert "Scores are of the first 3 people of the dataset; the 2 others" in markdown
    planned = snakemake("-n", "-p", name="smoke_epochs")
    assert re.search("^train +4$", planned, re.MULTILINE)
    (command,) = [line for line in planned.splitlines() if " train.py " in line and "random-1-rate-0.001.model" in line]
    assert {"++trainer.learning_rate=0.001", "++lora.r=4"} <= set(command.split())
    check.check_results(changed, results)
    # Not of another number of epochs; who is reported, and which rates there are, changes nothing that is there.
    check.check_results(changed | {"reported": 2, "learning_rates": [0.1]}, results)
    with pytest.raises(InputError, match="made with different epochs from those the table has now"):
        check.check_results(changed | {"epochs": 4}, results)
    # The table's own two rates: those runs are added, and each arm's best of both rates and checkpoints is chosen.
    snakemake(name="smoke_epochs")
    markdown = (results / "table.md").read_text()
    assert "at each learning rate (0.001, 0.01)" in markdown
    _, found = read_study(results)
    for column, people in (("others", slice(3, 5)), ("reported", slice(3))):
        for arm in ("none", "random"):
            candidates = []
            for rate, part in itertools.product((0.001, 0.01), (1, 2)):
                scores = [
                    field_answers[["exact_match", "f1"]][people].mean()
                    for seed in config["seeds"]
                    for _, field_answers in found[f"{arm}/seed-{seed}-rate-{rate}/questions/{part}"].groupby("field")
                ]
                exact_match, f1 = np.mean(scores, axis=0)
                candidates.append((-exact_match, -f1, part, rate))
            *_, part, rate = min(candidates)
            epoch = part * (2 if arm == "none" else 1)
            chosen = re.findall(r"([\d.]+, epoch \d)", row_of(markdown, "What was chosen", arm))
            assert chosen[column == "reported"] == f"{rate}, epoch {epoch}"


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.stem for path in TABLES if re.match("paper.*(gemma2|llama3)", path.stem)])
def test_a_table_of_the_papers_models_is_made_whole_of_stand_ins(clone, snakemake, name):
    """All of its arms and keys; but with tiny models, two seeds and epochs, one rate, few questions, and no GPU."""
    config = read(ROOT / f"conf/tables/{name}.yaml")
    models = {config[size]: f"tables_out/tiny_models/{size}" for size in ("large", "small")}
    changed = config | {size: models[config[size]] for size in ("large", "small", "trained")}
    changed |= {"seeds": [1, 2], "epochs": 2, "learning_rates": [0.01], "checkpoints": 2, "resources": {}}
    changed["train"] = config.get("train", {}) | {"quant": None, "trainer.per_device_train_batch_size": 50}
    if not config.get("made_by"):
        changed |= {"evaluate": config.get("evaluate", {}) | {"people": 5}, "reported": 3}
    (clone / f"conf/tables/{name}.yaml").write_text(yaml.safe_dump(changed))
    snakemake(name=name)
    results = clone / "results" / name
    records, _ = read_study(results)
    assert set(records) == set(runs(changed))
    (asked,) = {record["config"]["model"] for key, record in records.items() if key.startswith("untrained/")}
    assert asked == changed["trained"]
    chosen = (results / "table.md").read_text().split("## What was chosen\n")[1]
    assert all(f"| {arm} " in chosen for arm in ("none", "random", "attention", "difference"))
    (clone / f"conf/tables/{name}.yaml").write_text(yaml.safe_dump(config))


def example() -> tuple[str, Dump]:
    tagged = "<name>Ada King</name> lives in <city>Turin</city>."
    plain = biography.strip_tags(tagged)
    offsets = np.array([found.span() for found in re.finditer(r" ?\w+|\.", plain)], dtype=np.int32)
    row = Row(attention_dump.text_hash(plain), np.arange(6, dtype=np.float32), offsets)
    return tagged, Dump.of("both", "tokenizer", {}, [row])


@pytest.mark.parametrize("control", ["shuffled", "facts", "name_first"])
def test_control_weights(tmp_path, control):
    tagged, dump = example()
    dataset = tmp_path / "texts.csv"
    dataset.write_text(f'text\n"{tagged}"\n')
    attention_dump.write(dump, tmp_path / "difference")
    control_weights.main(control, str(tmp_path / "difference"), str(dataset), 1, str(tmp_path / "out.pkl"))
    made = attention_dump.read_dump(tmp_path / "out")
    assert made.text_sha256 == dump.text_sha256
    np.testing.assert_array_equal(made.offsets, dump.offsets)
    if control == "shuffled":
        np.testing.assert_array_equal(np.sort(made.values), dump.values)
        assert (made.values != dump.values).any()
    elif control == "name_first":
        # Ada and King before everything else, all in the difference's own order.
        assert np.argsort(-made.values).tolist() == [1, 0, 5, 4, 3, 2]
    else:
        # Ada, King and Turin before everything else.
        assert set(np.argsort(-made.values)[:3]) == {0, 1, 4}


def test_a_blank_is_one_token_of_the_scratch_tokenizer():
    tokenizer = scratch_models.train_tokenizer(["Ada King was born in Turin.", "The employer of Ada King was Fiat."])
    assert len(tokenizer.tokenize("Ada" + " " * 12 + "was")) <= len(tokenizer.tokenize("Ada was")) + 1


def test_the_corpus_asks_about_everybody_but_those_kept_apart(tmp_path):
    texts = list(biography.read_texts(ROOT / "data/biography_synthetic.csv"))
    for name, file_texts in (("people.csv", texts[:12]), ("apart.csv", texts[10:])):
        with open(tmp_path / name, "w", newline="", encoding="utf-8") as opened:
            csv.writer(opened).writerows([["text"], *([text] for text in file_texts)])
    made = scratch_models.corpus(str(tmp_path / "people.csv"), str(tmp_path / "apart.csv"))
    assert made[:10] == [biography.strip_tags(text) for text in texts[:10]]
    assert len(made) == 10 + 5 * 2
    assert sum("The employer of Patricia Gray was Sanford Precision Tools" in text for text in made) == 1
    name = biography.field_spans(texts[11])
    assert not any(name[0][slice(*name[1]["name"])] in text for text in made)


def test_a_table_has_the_numbers_of_metrics_json(tmp_path):
    """Of people of one name, of names that look like missing values and of answers that look like numbers."""
    names = ["Ann", "Ann", "None", "007", "7"]
    people = [{"name": name, "city": city} for name, city in zip(names, ["1e3", "1000", "NA", "7", "007"], strict=True)]
    asked = questions.ask(people, [], {"city": "{name} is of"}, 0, 1, 5)
    chosen = ["1000", "1000", "NA", "007", "007"]
    rows = [
        {
            "field": one.field,
            "name": one.name,
            "prompt": one.prompt,
            "answer": one.answer,
            "question": one.prompt,
            "prediction": "half\rof it",
            "exact_match": 100.0 * (row == 2),
            "f1": 10.0 * row / 3,
            "log_likelihood": -1.1 * row,
            "chosen": chosen[row],
        }
        for row, one in enumerate(asked)
    ]
    folder, asked = tmp_path / "answers", "arm/seed-1/paper/1"
    artifacts.write_csv(folder / "predictions.csv", rows)
    artifacts.write_json(folder / "metrics.json", {})
    expected = scores.by_field(rows)["average"]
    trim.trim(folder, tmp_path / "made" / asked)
    assert not {"prompt", "question", "accepted"} & {
        *pd.read_csv(tmp_path / "made" / asked / "predictions.csv").columns
    }
    results = tmp_path / "results"
    add(tmp_path / "made", results)
    found = summary.read_scores(results, asked)
    assert len(found) == len(people)
    # Sums of float64 in another order.
    assert found.mean().to_dict() == pytest.approx(expected, rel=1e-12)
    field_scores = summary.scores_by_field(results, [asked], "f1")
    assert {field: values.mean() for field, values in field_scores.items()} == pytest.approx({"city": expected["f1"]})
    assert summary.read_answers(results, asked)["prediction"].tolist() == ["half\rof it"] * 5

    # Digests of answers serve for all of it.
    trim.trim(folder, tmp_path / "made" / asked, words=False)
    add(tmp_path / "made", tmp_path / "digests")
    pd.testing.assert_frame_equal(summary.read_scores(tmp_path / "digests", asked), found)
    kept = summary.read_answers(tmp_path / "digests", asked)
    assert not kept[["answer", "prediction", "chosen"]].isin({"1e3", "NA", *chosen, "half\rof it"}).any(axis=None)
    assert kept["name"].tolist() == [row["name"] for row in rows]


ODD_NAMES = [
    "people (1).csv",
    "größe.csv",
    "a=b.csv",
    "two words.csv",
    "it's [1].csv",
    'say "a" $b & ~c.csv',
    "$x #1; *?.csv",
]


# The others are read as these are: see the next test.
@pytest.mark.parametrize("name", ODD_NAMES[-3:])
def test_a_tables_files_may_have_any_name(name, clone, snakemake):
    folder = clone / "data" / "of any name"
    folder.mkdir(exist_ok=True)
    shutil.copy(clone / "data/biography_real.csv", folder / name)
    model = clone / "tables_out" / name.removesuffix(".csv")
    shutil.copytree(clone / "tables_out/tiny_models/small", model, dirs_exist_ok=True)
    table = read(ROOT / "conf/tables/smoke.yaml") | {
        "table": "any_name",
        "dataset": f"./data/of any name/{name}",
        "trained": f"tables_out/{model.name}/",
        "arms": {"random": {"augment_type": "random", "alpha": 0.55}},
        "against": [],
    }
    (clone / "conf/tables/any_name.yaml").write_text(yaml.safe_dump(table, allow_unicode=True), encoding="utf-8")
    snakemake("data_augmented/any_name/random-1.csv", "--forcerun", "augmentation", name="any_name")
    record = json.loads((clone / "data_augmented/any_name/random-1.json").read_text(encoding="utf-8"))
    assert record["config"]["dataset"] == f"data/of any name/{name}"
    assert record["config"]["model"] == f"tables_out/{model.name}"
    # The other scripts' command lines as Hydra reads them.
    planned = snakemake("-n", "-p", name="any_name")
    for script, key, value in (
        ("evaluate", "dataset", f"data/of any name/{name}"),
        ("train", "model", record["config"]["model"]),
    ):
        line = next(line for line in planned.splitlines() if f" {script}.py " in line)
        (word,) = [word for word in shlex.split(line) if word.startswith(f"++{key}=")]
        assert OverridesParser.create().parse_override(word).value() == value


STRINGS = [
    "null",
    "true",
    "1e3",
    "007",
    "",
    "a\\b",
    "back\\",
    "a\\'b",
    "\\\\${x}",
    "\\${x}",
    "${x}",
    "it's {x}",
    "a,b",
    "%d",
    *ODD_NAMES,
]


@pytest.mark.parametrize("value", [*STRINGS, None, True, False, 0, 0.5])
def test_a_value_comes_through_hydras_grammar_as_it_is(value):
    override = OverridesParser.create().parse_override(on_command_line("key", value))
    # What is set, once interpolations are resolved.
    config = OmegaConf.create({"x": "another"})
    OmegaConf.update(config, "key", override.value(), force_add=True)
    assert (type(config.key), config.key) == (type(value), value)


def test_a_table_may_not_have_a_path_for_a_name():
    with pytest.raises(InputError, match="table=a/b: must be a folder's name"):
        check.check_table(read(ROOT / "conf/tables/smoke.yaml") | {"table": "a/b"})
