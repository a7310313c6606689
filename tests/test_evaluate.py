"""evaluate.py on a run's checkpoints, asked about people or by free questions."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import evaluate
from utils import answers, artifacts, rules, scores, script
from utils.errors import InputError

ASK = "evaluate.py people=2 shots=1 examples=data/biography_synthetic.csv"


@pytest.fixture(scope="module")
def trained(run, workplace, tiny_model):
    """A run with two checkpoints."""
    options = (
        "trainer.max_steps=10 trainer.save_strategy=steps +trainer.save_steps=5 quant=null trainer.learning_rate=0.01"
    )
    run(f"python train.py model={tiny_model} model_dir=trained {options}")
    return workplace / "trained"


def test_all_checkpoints_of_a_run_are_asked_as_each_by_itself(run, workplace, trained):
    done = run(f"python {ASK} model_dir=trained")
    assert done.stdout.count("10 questions") == 2
    run(f"python {ASK} model_dir=trained/checkpoint-5 output_dir=alone batch_tokens=300")
    found = [(trained / f"checkpoint-{step}/evaluation/predictions.csv").read_text() for step in (5, 10)]
    alone = (workplace / "alone/predictions.csv").read_text()
    assert columns(found[0]) == columns(alone) != columns(found[1])
    for step in (5, 10):
        metrics = json.loads((trained / f"checkpoint-{step}/evaluation/metrics.json").read_text())
        assert metrics["config"]["model_dir"] == f"trained/checkpoint-{step}"


@pytest.fixture
def ask(trained, workplace, tmp_path, monkeypatch):
    """Ask the run's two checkpoints, a question a batch, stopped after so many batches of answers and of choices;
    returns how many batches there were of each."""
    monkeypatch.chdir(workplace)

    def counted(patch, name: str, stopped_after: int) -> list:
        batches, method = [], getattr(answers, name)

        def stopping(*arguments):
            for batch in method(*arguments):
                if len(batches) == stopped_after:
                    raise KeyboardInterrupt
                batches.append(batch)
                yield batch

        patch.setattr(answers, name, stopping)
        return batches

    def run_evaluation(stopped_after: tuple[int, int] = (99, 99), **keys) -> tuple[int, int]:
        keys = {
            "model_dir": "trained",
            "output_dir": tmp_path / "out",
            "shots": 1,
            "batch_tokens": 1,
        } | keys
        if "questions" not in keys:
            # Of three people's answers one is chosen.
            lines = Path("data/biography_synthetic.csv").read_text().splitlines(keepends=True)
            (tmp_path / "people.csv").write_text("".join(lines[:4]))
            keys |= {"people": 1, "dataset": tmp_path / "people.csv"}
        with initialize_config_dir(str(script.CONFIG_FOLDER), version_base=None):
            composed = compose("evaluate", [f"{key}={value}" for key, value in keys.items()])
        names = ("greedy_answers", "choice_log_likelihoods")
        with monkeypatch.context() as patch:
            found = [counted(patch, name, after) for name, after in zip(names, stopped_after, strict=True)]
            try:
                evaluate.main.__wrapped__(composed)
            except KeyboardInterrupt:
                assert min(stopped_after) < 99
        return tuple(map(len, found))

    return run_evaluation


def written(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_resumed_run_asks_what_was_not_asked_and_its_predictions_are_the_same(ask, tmp_path, capsys):
    assert ask() == (10, 10)
    unbroken = written(tmp_path / "out")
    assert len(unbroken) == 4
    for step in (5, 10):
        predictions, metrics = (f"checkpoint-{step}/{name}" for name in ("predictions.csv", "metrics.json"))
        digest = hashlib.sha256(unbroken[predictions].encode()).hexdigest()
        assert json.loads(unbroken[metrics])["sha256"] == digest
    # In the first checkpoint's answers, in its choices, in the second's: of both together.
    for stopped_after, rest in (((3, 99), (7, 10)), ((99, 2), (5, 8)), ((7, 99), (3, 5))):
        (tmp_path / "out/checkpoint-10/predictions.csv").write_text("earlier")
        ask(stopped_after)
        assert (tmp_path / "out/checkpoint-10/predictions.csv").read_text() == "earlier"
        assert ask(resume="true") == rest
        found = written(tmp_path / "out")
        assert found.keys() == unbroken.keys()
        for name, content in found.items():
            if name.endswith(".csv"):
                assert content == unbroken[name]
            else:
                assert json.loads(content)["fields"] == json.loads(unbroken[name])["fields"]
    ask((3, 99))
    assert ask() == (10, 10)


FREE = """paragraph,kind,question,answer
p1,open,"Is it open, at night?",yes|always
p1,where,Where is it?,Osk
p2,open,Is p2 open?,no
p2,where,Where is p2?,Bu|in Bu
p3,open,Is p3 open?,no
p4,open,Is p4 open?,yes
"""


@pytest.fixture
def free(tmp_path) -> Path:
    path = tmp_path / "free.csv"
    path.write_text(FREE + "p4,where,Where is p4?,Osk\n")
    return path


def read(path: Path) -> list[dict]:
    with open(path, newline="") as opened:
        return list(csv.DictReader(opened))


def test_free_questions_are_asked_resumed_and_scored_by_group(ask, free, tmp_path, capsys):
    # Choices where they repeat: four of yes or no, none of three places.
    assert ask(questions=free, group="kind") == (14, 8)
    said = capsys.readouterr().out
    assert (
        said.count(
            "choice: no answers to choose from for 3 of 7 questions: their answers rarely repeat, or are all the same\n"
        )
        == 2
    )
    assert said.count("7 questions; ") == 2
    unbroken = written(tmp_path / "out")
    for step in (5, 10):
        found = read(tmp_path / f"out/checkpoint-{step}/predictions.csv")
        metrics = json.loads(unbroken[f"checkpoint-{step}/metrics.json"])
        assert [(row["field"], row["name"], row["answer"]) for row in found[:2]] == [
            ("open", "p1", "yes"),
            ("where", "p1", "Osk"),
        ]
        assert [row["question"] for row in found[:2]] == ["Is it open, at night?", "Where is it?"]
        assert json.loads(found[0]["accepted"]) == ["yes", "always"]
        rows_by_group = {"open": [], "where": []}
        for row in found:
            assert row["prompt"].count("Question: ") == 2
            assert row["prompt"].endswith(f"\n\nQuestion: {row['question']}\nAnswer:")
            assert (row["chosen"] in ("yes", "no")) == (row["field"] == "open")
            rows_by_group[row["field"]].append(row)
        assert list(metrics["fields"]) == ["open", "where"]
        for field, rows in (rows_by_group | {"average": found}).items():
            means = metrics["average"] if field == "average" else metrics["fields"][field]
            for measure in ("exact_match", "f1", "log_likelihood"):
                assert means[measure] == pytest.approx(sum(float(row[measure]) for row in rows) / len(rows))
        right = [100 * (row["chosen"] == row["answer"]) for row in rows_by_group["open"]]
        assert metrics["fields"]["open"]["choice_accuracy"] == sum(right) / 4
        assert metrics["fields"]["where"]["choice_accuracy"] is None is metrics["average"]["choice_accuracy"]
        assert metrics["config"]["examples"] == metrics["config"]["questions"] == str(free)
        assert metrics["config"]["dataset"] is metrics["config"]["prompts"] is None
    # In other batches the same, but for the likelihoods' last digits.
    assert ask(questions=free, group="kind", batch_tokens=1000, model_dir="trained/checkpoint-5") < (7, 4)
    alone, together = (read(tmp_path / "out" / name) for name in ("checkpoint-5/predictions.csv", "predictions.csv"))
    for one, other in zip(alone, together, strict=True):
        assert float(one.pop("log_likelihood")) == pytest.approx(float(other.pop("log_likelihood")), abs=1e-3)
        assert one == other
    for stopped_after, rest in (((3, 99), (11, 8)), ((14, 2), (7, 6)), ((9, 99), (5, 4))):
        ask(stopped_after, questions=free, group="kind")
        assert ask(questions=free, group="kind", resume="true") == rest
        again = written(tmp_path / "out")
        for step in (5, 10):
            assert again[f"checkpoint-{step}/predictions.csv"] == unbroken[f"checkpoint-{step}/predictions.csv"]
    # What was kept is of these questions.
    ask((3, 99), questions=free, group="kind")
    free.write_text(FREE + "p4,where,Where is p4?,Bu\n")
    assert ask(questions=free, group="kind", resume="true") == (14, 8)


def test_the_best_accepted_answer_counts_and_the_limit_leaves_room_for_all(ask, tmp_path, monkeypatch, capsys):
    rows = [
        {"question": "Who?", "answer": ["Ada", "the poet Ada Moe of Osk"]},
        {"question": "When?", "answers": []},
        {"question": "Where?", "answer": "Osk"},
    ]
    path = tmp_path / "free.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    asked = []
    greedy = answers.greedy_answers

    def saying(model, tokenizer, prompts, golds, limit, *rest):
        asked.append((golds, limit, len(tokenizer(" the poet Ada Moe of Osk", add_special_tokens=False).input_ids)))
        for batch in greedy(model, tokenizer, prompts, golds, 1, *rest):
            yield {index: ("Poet Ada Moe, of Osk!", likelihood) for index, (_, likelihood) in batch.items()}

    monkeypatch.setattr(answers, "greedy_answers", saying)
    ask(questions=path, model_dir="trained/checkpoint-5")
    assert f"{path}: skipped 1 questions without an answer\n" in capsys.readouterr().out
    ((golds, limit, longest),) = asked
    assert golds == ["Ada", "Osk"] and limit == longest
    one, other = read(tmp_path / "out/predictions.csv")
    assert (one["field"], one["name"], one["exact_match"], one["f1"]) == ("all", "line 1", "100.0", "100.0")
    assert float(other["f1"]) == pytest.approx(scores.f1("poet Ada Moe of Osk", "Osk")) == pytest.approx(100 / 3)


def test_a_group_may_be_called_average(capsys):
    row = {"answer": "Ada", "chosen": None, "exact_match": 100.0, "f1": 100.0, "log_likelihood": -1.5}
    results = [row | {"field": "average"}, row | {"field": "who", "exact_match": 0.0, "f1": 50.0}]
    evaluate.show(scores.by_field(results), "2 questions")
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["exact_match", "f1", "log_likelihood"],
        ["average", "100.00", "100.00", "-1.50"],
        ["who", "0.00", "50.00", "-1.50"],
        ["average", "50.00", "75.00", "-1.50"],
        ["2", "questions"],
    ]


def test_what_was_kept_of_other_questions_or_weights_is_not_used(ask, trained, capsys):
    keys = {"model_dir": "trained/checkpoint-5"}
    ask((3, 99), **keys)
    assert ask(resume="true", seed=2, **keys) == (5, 5)
    assert "resume: the kept work has different settings, texts, weights, versions or code" in capsys.readouterr().out
    ask((3, 99), **keys)
    shutil.copytree(trained / "checkpoint-5", trained.parent / "spare")
    try:
        shutil.copy(trained / "checkpoint-10/adapter_model.safetensors", trained / "checkpoint-5")
        assert ask(resume="true", **keys) == (5, 5)
    finally:
        shutil.copytree(trained.parent / "spare", trained / "checkpoint-5", dirs_exist_ok=True)
    assert "resume: the kept work has different settings, texts, weights, versions or code" in capsys.readouterr().out


def test_a_second_evaluation_of_a_checkpoint_is_refused(ask, tmp_path):
    with (
        artifacts.claimed("output_dir", tmp_path / "out/checkpoint-10/predictions.csv"),
        pytest.raises(InputError, match="^output_dir: another run is writing .*checkpoint-10/predictions.csv;"),
    ):
        ask()
    assert not (tmp_path / "out").exists()


def columns(predictions: str) -> list[list[str]]:
    """All but the log-likelihoods, which differ in their last digits from batch to batch."""
    return [line.split(",")[:5] for line in predictions.splitlines()]


def test_a_run_whose_checkpoint_is_not_whole_is_refused(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    assert rules.checkpoint()(str(tmp_path / "run")) == str(tmp_path / "run")
    (tmp_path / "run/checkpoint-10/adapter_config.json").unlink()
    (tmp_path / "run/checkpoint-notes").mkdir()
    with pytest.raises(ValueError, match="checkpoint-10: the folder holds no model"):
        rules.checkpoint()(str(tmp_path / "run"))
    with pytest.raises(ValueError, match="the folder holds no model"):
        rules.checkpoint()(str(tmp_path))


def test_a_run_that_has_saved_no_checkpoint_says_so(trained, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copy(trained / "run.json", tmp_path / "run")
    with pytest.raises(ValueError, match="it holds no checkpoint: train.py has saved none yet"):
        rules.checkpoint()(str(tmp_path / "run"))
