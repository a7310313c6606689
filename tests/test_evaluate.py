"""evaluate.py on a run's checkpoints."""

import json
import shutil

import pytest

from utils import config

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
