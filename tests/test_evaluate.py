"""evaluate.py on a run's checkpoints."""

import hashlib
import json
import shutil

import pytest
from hydra import compose, initialize_config_dir

import evaluate
from utils import answers, artifacts, config
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
            "people": 1,
            "shots": 1,
            "batch_tokens": 1,
        } | keys
        with initialize_config_dir(str(config.CONFIG_FOLDER), version_base=None):
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


def test_what_was_kept_of_other_questions_or_weights_is_not_used(ask, trained, capsys):
    keys = {"model_dir": "trained/checkpoint-5"}
    ask((3, 99), **keys)
    assert ask(resume="true", seed=2, **keys) == (5, 5)
    assert "resume: what was kept is of other settings, texts, weights or versions" in capsys.readouterr().out
    ask((3, 99), **keys)
    shutil.copytree(trained / "checkpoint-5", trained.parent / "spare")
    try:
        shutil.copy(trained / "checkpoint-10/adapter_model.safetensors", trained / "checkpoint-5")
        assert ask(resume="true", **keys) == (5, 5)
    finally:
        shutil.copytree(trained.parent / "spare", trained / "checkpoint-5", dirs_exist_ok=True)
    assert "resume: what was kept is of other settings, texts, weights or versions" in capsys.readouterr().out


def test_a_second_evaluation_of_a_checkpoint_is_refused(ask, tmp_path):
    with (
        artifacts.claimed("output_dir", tmp_path / "out/checkpoint-10/predictions.csv"),
        pytest.raises(InputError, match="^output_dir: another run is writing .*checkpoint-10/predictions.csv now"),
    ):
        ask()
    assert not (tmp_path / "out").exists()


def columns(predictions: str) -> list[list[str]]:
    """All but the log-likelihoods, which differ in their last digits from batch to batch."""
    return [line.split(",")[:5] for line in predictions.splitlines()]


def test_a_run_whose_checkpoint_is_not_whole_is_refused(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    assert config.checkpoint()(str(tmp_path / "run")) == str(tmp_path / "run")
    (tmp_path / "run/checkpoint-10/adapter_config.json").unlink()
    (tmp_path / "run/checkpoint-notes").mkdir()
    with pytest.raises(ValueError, match="checkpoint-10: the folder holds no model"):
        config.checkpoint()(str(tmp_path / "run"))
    with pytest.raises(ValueError, match="the folder holds no model"):
        config.checkpoint()(str(tmp_path))
