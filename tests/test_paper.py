"""Tables in epochs, and the paper's: what is chosen, by whom, and what `make paper` writes."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from tests.conftest import ROOT
from tests.studies import add_answers, answer, write_run
from workflow import check, intervals, paper, selection
from workflow.results import add, write_records
from workflow.scripts import budget
from workflow.table import runs, settings_of

FIELDS = ["date", "city", "university", "major", "company"]

PAPERS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in ROOT.glob("conf/tables/paper_*.yaml")}


@pytest.mark.parametrize("texts", [60, 97, 1100])
@pytest.mark.parametrize(("batch", "accumulated", "processes"), [(8, 1, 1), (8, 3, 1), (4, 2, 2)])
def test_each_checkpoint_ends_an_epoch(texts, batch, accumulated, processes):
    process_batches = BatchSamplerShard(BatchSampler(range(texts), batch, drop_last=False), processes, 0)
    steps, ends = 0, []
    for _ in range(6):
        batches = list(process_batches)
        steps += sum(1 for _ in range(0, len(batches), accumulated))
        ends.append(steps)
    an_epoch = budget.steps_an_epoch(texts, batch, accumulated, processes)
    assert budget.steps_for_epochs(6, an_epoch, 3) == (ends[-1], ends[1])
    assert budget.steps_for_epochs(6, an_epoch, 6) == (ends[-1], ends[0])


def answers_of(people: int, exact_match, f1) -> list[dict]:
    """Of the first fields; the scores are arrays [fields, people]."""
    return [
        answer(field, f"person {person}", exact_match=exact_match[row][person], f1=f1[row][person])
        for row, field in enumerate(FIELDS[: len(exact_match)])
        for person in range(people)
    ]


@pytest.mark.parametrize("draw", range(6))
def test_the_best_checkpoint_is_chosen(tmp_path, draw):
    random = np.random.default_rng(draw)
    config = {"epochs": 6, "checkpoints": 3, "learning_rates": [0.2, 0.00005], "reported": 4, "seeds": [3, 1]}
    config |= {"arms": {"one": None, "two": None}, "evaluations": {"first": None, "second": None}}
    made, answers = {}, {}
    for arm, seed, rate, evaluation, part in itertools.product(
        config["arms"], config["seeds"], config["learning_rates"], config["evaluations"], (1, 2, 3)
    ):
        # Few of either score, so that there are ties.
        scores = [100 * (random.random((5, 6)) < 0.03), 50 * (random.random((5, 6)) < 0.03)]
        made[arm, seed, rate, evaluation, part] = scores
        answers[f"{arm}/seed-{seed}-rate-{rate}/{evaluation}/{part}"] = answers_of(6, *scores)
    add_answers(tmp_path / "table", answers)
    chosen = selection.choose(config, tmp_path / "table")
    for way, people in {"chosen on the others": [4, 5], "chosen on the reported": [0, 1, 2, 3]}.items():
        for arm in config["arms"]:
            best, highest = None, (-1, -1)
            for part in (1, 2, 3):
                for rate in config["learning_rates"]:
                    sums = [0, 0]
                    for seed, evaluation in itertools.product(config["seeds"], config["evaluations"]):
                        for measure, measure_scores in enumerate(made[arm, seed, rate, evaluation, part]):
                            sums[measure] += sum(int(row[person]) for row in measure_scores for person in people)
                    if tuple(sums) > highest:
                        best, highest = (rate, part), tuple(sums)
            assert chosen[way][arm] == best


@pytest.mark.parametrize(("highest", "chosen"), [(0.2, 1), (0.2001, 3)])
def test_a_small_difference_decides_and_a_rounding_does_not(tmp_path, highest, chosen):
    # The same scores in another order: their float64 sum is another.
    ups, downs = [0.1, 0.2, 0.3], [0.3, 0.2, 0.1]
    assert sum(ups) > sum(downs)
    answers = {
        f"one/seed-1/all/{part}": answers_of(2, [[0.0, score] for score in scores], np.zeros((3, 2)))
        for part, scores in enumerate((downs, ups, [highest] * 3), start=1)
    }
    add_answers(tmp_path / "table", answers)
    config = {"epochs": 3, "checkpoints": 3, "reported": 1, "seeds": [1], "arms": {"one": None}}
    found = selection.choose(config | {"evaluations": {"all": None}}, tmp_path / "table")
    assert found["chosen on the others"] == {"one": (None, chosen)}


def test_a_table_in_tokens_has_nothing_to_choose(tmp_path):
    config = {"tokens": 100, "checkpoints": 3, "arms": {"one": None, "two": None}}
    assert selection.choose(config, tmp_path) == {"": {"one": (None, 3), "two": (None, 3)}}


def test_the_papers_tables_have_the_papers_settings():
    published = pd.read_csv(ROOT / "workflow/published.csv")
    assert PAPERS.keys() == paper.MODELS.keys() | paper.PARAGRAPHS.keys()
    assert published.groupby("table").size().to_dict() == {1: 4 * 5, 2: 4 * 4 * 2, 3: 4 * 4}
    assert not published.duplicated(["table", "model", "arm", "field"]).any()
    assert (published["exact_match"] <= published["f1"]).all() and published["f1"].between(0, 1).all()
    wikipedia = {name: model for name, (model, whose) in paper.PARAGRAPHS.items() if whose == "Wikipedia"}
    for number, models in ((2, paper.MODELS), (3, wikipedia)):
        for model, model_rows in published[published["table"] == number].groupby("model"):
            (name,) = [name for name, paper_model in models.items() if paper_model == model]
            for row in model_rows.to_dict("records"):
                expected = [None if pd.isna(row[key]) else row[key] for key in ("alpha", "beta")]
                assert list(paper.alpha_and_beta(PAPERS[name], row["arm"])) == expected
            # The same models and budget for biographies and paragraphs.
            biographies = PAPERS[name.replace("_wiki", "")]
            other = {key for key in PAPERS[name] if PAPERS[name][key] != biographies.get(key)}
            assert other <= {"table", "dataset", "made_by", "arms", "evaluations"}
    for name in paper.PARAGRAPHS.keys() - wikipedia.keys():
        alphas_and_betas = [paper.alpha_and_beta(PAPERS[name], arm) for arm in paper.TABLES[3][0]]
        assert alphas_and_betas == [(None, None), (0.7, None), (0.7, 0.005), (0.7, 0.005)]
    for config in PAPERS.values():
        assert config["data_augmentation"] == {"multiply": 10, "include_original": True, "blank": "delete"}
        if config["trained"] not in (config["small"], config["large"]):
            continue  # guided by a pair of another family
        # The trained model's own attention.
        own = "small" if config["trained"] == config["small"] else "large"
        assert config["trained"] == config[own]
        assert config["arms"]["attention"]["attn_weights"] == f"attention_{own}"


def test_make_paper_writes_what_is_committed(tmp_path):
    paper.main(ROOT / "conf/tables", ROOT / "results", tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in (ROOT / "results/paper").iterdir()}
    endings = (".md", ".csv", ".tex", "_numbers.csv")
    assert set(made) == {f"table{number}{ending}" for number in (1, 2, 3) for ending in endings}
    # In the paper's order, which differs between its tables.
    gemma, llama = ["Gemma 2 2B", "Gemma 2 9B"], ["Llama 3 8B", "Llama 3 70B"]
    for number, models in ((1, llama + gemma), (2, gemma + llama), (3, gemma + llama)):
        assert pd.read_csv(tmp_path / f"table{number}_numbers.csv")["model"].unique().tolist()[:4] == models
        rows = pd.read_csv(tmp_path / f"table{number}.csv", dtype=str, keep_default_na=False).to_numpy().tolist()
        lines = (tmp_path / f"table{number}.md").read_text().splitlines()
        assert rows == [[cell.strip() for cell in line[1:-1].split("|")] for line in lines if line.startswith("| ")][1:]


def test_no_finished_table_lacks_runs():
    """What `make paper` asks first; where one does, it has them made again."""
    command = [sys.executable, "-m", "workflow.paper", "unfinished"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


def test_make_paper_has_our_numbers_once_all_runs_are_there(tmp_path, monkeypatch, capsys):
    name, model = "paper_qwen_0.5b", "Qwen2.5-Coder 0.5B"
    monkeypatch.setattr(paper, "MODELS", {name: model})
    monkeypatch.setattr(paper, "PARAGRAPHS", {})
    config = PAPERS[name] | {"arms": {arm: PAPERS[name]["arms"][arm] for arm in paper.TABLES[2][0]}, "against": []}
    config["reported"], config["seeds"] = 40, [1, 2, 3]
    (tmp_path / "tables").mkdir()
    (tmp_path / f"tables/{name}.yaml").write_text(yaml.safe_dump(config))
    results, random = tmp_path / name, np.random.default_rng(0)
    asked = {"config": check.resolved(config, "questions") | {"model": config["trained"]}, "device": "cuda a card"}
    records, answers = {}, {}
    for record_name in runs(config):
        folder, _, kind = record_name.rpartition("/")
        arm = folder.split("/")[0]
        records[record_name] = asked if kind == "metrics.json" else {"settings": settings_of(config, arm)}
        if kind == "metrics.json" and arm != "untrained":
            # Later is better.
            exact_match, f1 = 100.0 * (random.random((2, 5, 60)) < 0.2 * int(folder[-1]))
            answers[folder] = answers_of(60, exact_match, np.maximum(exact_match, f1))
    write_run(tmp_path / "made", records, answers)
    add(tmp_path / "made", results)
    paper.main(tmp_path / "tables", tmp_path, tmp_path / "paper")
    table = pd.read_csv(tmp_path / "paper/table2_numbers.csv").set_index(["arm", "field", "measure"])
    row = table.loc["difference", "company", "f1"]
    scores_by_seed = []
    for seed in config["seeds"]:
        last = answers[f"difference/seed-{seed}-rate-0.0005/questions/{config['checkpoints']}"]
        company_scores = {row["name"]: row["f1"] / 100 for row in last if row["field"] == "company"}
        scores_by_seed.append([company_scores[one] for one in sorted(f"person {person}" for person in range(40))])
    for way in ("chosen on the others", "chosen on the reported"):
        assert row[way] == pytest.approx(np.mean(scores_by_seed))
        assert tuple(row[[f"{way}, low", f"{way}, high"]]) == pytest.approx(
            intervals.interval(np.array(scores_by_seed))
        )
    low, high = intervals.interval(np.array(scores_by_seed))
    assert f"/ {np.mean(scores_by_seed):.2f} [{low:.2f}, {high:.2f}]" in (tmp_path / "paper/table2.md").read_text()
    how = (
        "\n- Qwen2.5-Coder 0.5B: 3 seeds; 40 of 60 people reported; epochs: 10 (plain: 30); checkpoints: 2; learning "
        "rates: 0.0005; attention: qwen2.5-coder-0.5b; difference: qwen2.5-coder-1.5b minus qwen2.5-coder-0.5b; "
        "trained and asked on: cuda a card.\n"
    )
    assert all(how in (tmp_path / f"paper/table{number}.md").read_text() for number in (1, 2))
    assert pd.isna(row["published"])
    assert (row["alpha"], row["beta"]) == (0.7, 0.05)
    table_1 = pd.read_csv(tmp_path / "paper/table1_numbers.csv")
    assert table_1["field"].unique().tolist() == FIELDS
    assert table_1["chosen on the others"].notna().all()

    (results / "table.md").touch()
    assert paper.unfinished(tmp_path / "tables", tmp_path) == []
    del records["none/seed-1-rate-0.0005/questions/1/metrics.json"]
    write_records(results, records)
    capsys.readouterr()
    assert paper.unfinished(tmp_path / "tables", tmp_path) == [name]
    assert capsys.readouterr().err == (
        f"{name}: results missing: 1 (none/seed-1-rate-0.0005/questions/1/metrics.json ...), made again here"
        "; the others were made on: cuda a card; on another machine digits differ\n"
    )
    (results / "table.md").unlink()  # a table that is only begun
    assert paper.unfinished(tmp_path / "tables", tmp_path) == []
    capsys.readouterr()
    paper.main(tmp_path / "tables", tmp_path, tmp_path / "paper")
    # A run.json, and each checkpoint's answers.
    per_arm = len(config["seeds"]) * (1 + config["checkpoints"])
    assert (
        f"{name}: 1 of none's {per_arm} results are missing, so it counts as not run; to make"
        in capsys.readouterr().out
    )
    table = pd.read_csv(tmp_path / "paper/table2_numbers.csv").set_index(["arm", "field", "measure"])
    assert pd.isna(table.loc["none", "company", "f1"]["chosen on the others"])
    assert table.loc["difference", "company", "f1"].equals(row)


def test_make_paper_has_table_3_once_its_runs_are_there(tmp_path, monkeypatch, capsys):
    """Where the paragraphs themselves are not there: they are not committed."""
    searched, single = "paper_wiki_gemma2_2b", "paper_squad_smollm2"
    monkeypatch.setattr(paper, "MODELS", {})
    monkeypatch.setattr(paper, "PARAGRAPHS", {name: paper.PARAGRAPHS[name] for name in (searched, single)})
    monkeypatch.setattr(intervals, "RESAMPLES", 99)
    monkeypatch.chdir(tmp_path)
    configs = {name: PAPERS[name] | {"reported": 6} for name in (searched, single)}
    configs[searched] |= {"learning_rates": [0.0002, 0.001], "checkpoints": 2}
    random = np.random.default_rng(0)
    # Of nine paragraphs, in the order in which they are asked about: the first has one question, the last four.
    names = [f"Title ({number})" for number in (3, 1, 2, 9, 8, 7, 4, 5, 6) for _ in range(1 + number % 4)]
    paragraphs = list(dict.fromkeys(names))
    Path("tables").mkdir()
    answers = {}
    for name, config in configs.items():
        Path(f"tables/{name}.yaml").write_text(yaml.safe_dump(config))
        asked = {"config": check.resolved(config, "questions") | {"model": config["trained"]}}
        records, rows = {}, {}
        for record_name in runs(config):
            folder, _, kind = record_name.rpartition("/")
            arm = folder.split("/")[0]
            records[record_name] = asked if kind == "metrics.json" else {"settings": settings_of(config, arm)}
            if kind != "metrics.json" or arm == "untrained":
                continue
            exact_match = 100 * (random.random(len(names)) < 0.4)
            f1 = np.maximum(exact_match, 100 * random.random(len(names)))
            answers[name, folder] = list(zip(names, exact_match, f1, strict=True))
            rows[folder] = [
                answer(("one", "two")[row % 2], paragraph, exact_match=right, f1=overlap)
                for row, (paragraph, right, overlap) in enumerate(answers[name, folder])
            ]
        write_run(Path("made", name), records, rows)
        add(Path("made", name), Path("results", name))
    paper.main(Path("tables"), Path("results"), Path("paper"))
    assert "missing" not in capsys.readouterr().out
    table = pd.read_csv("paper/table3_numbers.csv").set_index(["model", "arm", "measure"])
    markdown = Path("paper/table3.md").read_text()

    def scores_of(name: str, arm: str, seed: int, rate: float, part: int, about: list[str]) -> dict[str, list]:
        """The exact matches and the F1 of each of these paragraphs, from 0 to 1."""
        scores = {paragraph: [] for paragraph in about}
        for paragraph, exact_match, f1 in answers[name, f"{arm}/seed-{seed}-rate-{rate}/questions/{part}"]:
            if paragraph in scores:
                scores[paragraph].append((exact_match / 100, f1 / 100))
        return scores

    for name, config in configs.items():
        model, whose = paper.PARAGRAPHS[name]
        ways = {"chosen on the others": paragraphs[6:], "chosen on the reported": paragraphs[:6]}
        if name == single:
            ways.pop("chosen on the reported")
        for arm, (way, choose_on) in itertools.product(config["arms"], ways.items()):
            best, highest = None, (-1, -1)
            for part, rate in itertools.product(range(1, config["checkpoints"] + 1), config["learning_rates"]):
                pairs = []
                for seed in config["seeds"]:
                    pairs += itertools.chain(*scores_of(name, arm, seed, rate, part, choose_on).values())
                means = tuple(sum(values) / len(pairs) for values in zip(*pairs, strict=True))
                if means > highest:
                    best, highest = (rate, part), means
            for column, measure in enumerate(("exact_match", "f1")):
                scores_by_seed = []
                for seed in config["seeds"]:
                    scores = scores_of(name, arm, seed, *best, paragraphs[:6])
                    scores_by_seed.append(
                        [sum(one[column] for one in scores[it]) / len(scores[it]) for it in sorted(scores)]
                    )
                mean = sum(sum(seed_scores) / 6 for seed_scores in scores_by_seed) / len(scores_by_seed)
                low, high = intervals.interval(np.array(scores_by_seed))
                row = table.loc[model, arm, measure]
                assert row["paragraphs"] == whose
                assert tuple(row[[way, f"{way}, low", f"{way}, high"]]) == pytest.approx((mean, low, high))
                assert f" {mean:.3f} [{low:.3f}, {high:.3f}] " in markdown
    # With one checkpoint there is nothing to choose; the paper has Gemma 2 2B alone.
    assert table.loc["SmolLM2-135M"][["published", "chosen on the reported"]].isna().all(axis=None)
    assert table.loc["Gemma 2 2B", "difference", "f1"]["published"] == 0.256
    (row,) = [line for line in markdown.splitlines() if "| SmolLM2-135M" in line and "difference" in line]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:6] == ["SmolLM2-135M", "SQuAD", "difference", "0.7", "0.005", "–"] and len(cells) == 11
    assert cells[7] == "" and cells[8] == "–" and cells[10] == "" and "[" in cells[6] and "[" in cells[9]

    assert list(configs)[-1] == single  # whose records these are
    del records["random/seed-2-rate-0.001/run.json"]
    write_records(Path("results", single), records)
    paper.main(Path("tables"), Path("results"), Path("paper"))
    assert f"{single}: 1 of random's 6 results are missing, so it counts as not run; to make" in capsys.readouterr().out
    (row,) = [
        line for line in Path("paper/table3.md").read_text().splitlines() if "| SmolLM2" in line and "random" in line
    ]
    assert row.count("–") == 6
