"""The five stages twice with one seed: the same bytes, from this process and from one that orders its sets otherwise.

`python -m tests.test_determinism FOLDER SMALL LARGE` runs them in FOLDER, on two models.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

import contrast_attention
import data_augmentation
import evaluate
import save_attention
import train
from tests import tiny
from utils.script import CONFIG_FOLDER

ROOT = CONFIG_FOLDER.parent
REAL, SYNTHETIC = (str(ROOT / f"data/biography_{kind}.csv") for kind in ("real", "synthetic"))


@functools.cache
def defaults(script: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base=None):
        return compose(script)


def run(stage, **keys) -> None:
    """A stage with its YAML's defaults but for the keys that are given."""
    # Composed once: it takes longer than all that most stages do in tests.
    stage.main.__wrapped__(OmegaConf.merge(defaults(stage.__name__), keys))


def five_stages(small: str, large: str) -> None:
    """Both kinds of augmentation; LoRA with dropout, and all weights of a model that drops out by itself."""
    for name, model in (("small", small), ("large", large)):
        run(save_attention, model=model, dataset=REAL, save_name=name)
    run(contrast_attention, attn_dump_large="large", attn_dump_small="small", attn_diff="difference")
    texts = {"alpha": 0.7, "multiply": 3, "model": small, "dataset": REAL}
    guided = {"augment_type": "attention", "beta": 0.05, "attn_weights": "difference"}
    run(data_augmentation, **texts, **guided, save_name="attention")
    run(data_augmentation, **texts, augment_type="random", blank="delete", save_name="random")
    trained = {
        "dataset": "data_augmented/attention.csv",
        "quant": None,
        "trainer": {"max_steps": 3, "logging_steps": 1},
    }
    run(train, **trained, model=small, model_dir="lora", lora={"lora_dropout": 0.1})
    run(train, **trained, model=large, model_dir="whole", lora=None)
    asked = {"dataset": SYNTHETIC, "examples": REAL, "prompts": str(ROOT / "data/prompts_questions.csv")}
    run(evaluate, **asked, model_dir="lora/checkpoint-3", people=3, shots=2)


def files(folder: Path) -> dict[str, bytes | dict]:
    """What each file holds, but for how long the evaluation took."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    metrics = "lora/checkpoint-3/evaluation/metrics.json"
    found[metrics] = json.loads(found[metrics])
    assert found[metrics].pop("seconds") > 0
    return found


def test_the_five_stages_write_the_same_bytes_again(tmp_path, monkeypatch):
    models = [tiny.save(tmp_path / "small", "llama"), tiny.save(tmp_path / "large", "gpt2", vocabulary=400)]
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    subprocess.run(
        [sys.executable, "-m", "tests.test_determinism", there, *models],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "1"},
        check=True,
        timeout=300,
    )
    monkeypatch.chdir(here)
    five_stages(*map(str, models))
    first, again = files(here), files(there)
    assert set(first) == set(again)
    assert [name for name in first if first[name] != again[name]] == []
    # Of each stage.
    expected = {"small.pkl", "difference.pkl", "data_augmented/attention.csv", "data_augmented/random.csv"}
    expected |= {"lora/checkpoint-3/adapter_model.safetensors", "whole/checkpoint-3/model.safetensors"}
    assert expected | {"lora/checkpoint-3/evaluation/predictions.csv"} <= set(first)


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    five_stages(*sys.argv[2:])
