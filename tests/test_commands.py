"""The user's seven commands, verbatim but for the model's name, one after the other in a copy of the repository."""

import csv
import json
import os
import re
import shutil
import sys

import numpy as np
import pytest

from tests import tiny
from utils import attention_dump, biography

LARGE, SMALL = "meta-llama/Meta-Llama-3-70B", "meta-llama/Meta-Llama-3-8B"

SAVE = """python save_attention.py \
  +model=meta-llama/Meta-Llama-3-8B \
  +dataset=data/biography_real.csv +save_name=attn_dump_llama_3_8b"""
CONTRAST = """python contrast_attention.py \
  +attn_dump_large=attn_dump_llama_3_70b +attn_dump_small=attn_dump_llama_3_8b \
  +attn_diff=attn_diff_llama_70b_8b"""
AUGMENT_RANDOM = """python data_augmentation.py \
  +augment_type=random +alpha=0.7 +multiply=10 \
  +model=meta-llama/Meta-Llama-3-8B \
  +dataset=data/biography_real.csv +save_name=biography_real_aug"""
AUGMENT_ATTENTION = """python data_augmentation.py \
  +augment_type=attention +alpha=0.7 +beta=0.05 +multiply=10 \
  +attn_weights=attn_diff_llama_70b_7b \
  +model=meta-llama/Meta-Llama-3-8B \
  +dataset=data/biography_real.csv +save_name=biography_real_aug"""
TRAIN = "python train.py --config-name train.yaml +model_dir=model_out"
EVALUATE = "python evaluate.py --config-name evaluate.yaml +model_dir=model_out/checkpoint-130"


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A command with the Llama names replaced by tiny models of the same tokenizer, of one layer and with a large
    vocabulary, since the commands ask 500 questions."""
    folder = tmp_path_factory.mktemp("pair")
    sizes = {"vocabulary": 2000, "num_hidden_layers": 1}
    small = tiny.save(folder / "small", "llama", seed=0, **sizes)
    large = tiny.save(folder / "large", "llama", seed=1, **sizes)
    return lambda command: command.replace(LARGE, str(large)).replace(SMALL, str(small))


def cold(command: str) -> list[str]:
    """By the Python that a user has, not by a warm one, which would not miss what a script forgets to import."""
    return [sys.executable, *command.split()[1:]]


def test_the_seven_commands_chain(run, local, workplace):
    """Each script is once started cold."""
    # Attention of two models
    run(cold(local(SAVE)))
    run(local(SAVE.replace("8B", "70B").replace("8b", "70b")))
    small = attention_dump.read_dump(workplace / "attn_dump_llama_3_8b")
    large = attention_dump.read_dump(workplace / "attn_dump_llama_3_70b")
    texts = [biography.strip_tags(tagged) for tagged in biography.read_texts(workplace / "data/biography_real.csv")]
    assert [row.text_sha256 for row in small.rows] == [attention_dump.text_hash(text) for text in texts]
    defaults = {"include_self": False, "queries": "following", "layers": None}
    assert small.settings == defaults | {"prepend_bos": True, "dtype": "float32"}
    record = json.loads((workplace / "attn_dump_llama_3_8b.json").read_text())
    assert record["config"]["dataset"] == "data/biography_real.csv"
    assert {"config", "versions", "commit", "sha256"} == set(record)

    # Their difference
    run(cold(CONTRAST))
    difference = attention_dump.read_dump(workplace / "attn_diff_llama_70b_8b")
    for large_row, small_row, difference_row in zip(large.rows, small.rows, difference.rows, strict=True):
        assert np.abs(difference_row.values).max() > 0
        np.testing.assert_array_equal(difference_row.values, large_row.values - small_row.values)

    # Augmentation
    augmented = workplace / "data_augmented/biography_real_aug.csv"
    run(cold(local(AUGMENT_RANDOM)))
    at_random = augmented.read_bytes()
    # The user's own spelling: the difference above has another name.
    shutil.copy(workplace / "attn_diff_llama_70b_8b.pkl", workplace / "attn_diff_llama_70b_7b.pkl")
    run(local(AUGMENT_ATTENTION))
    assert augmented.read_bytes() != at_random
    for content in (at_random, augmented.read_bytes()):
        lines = content.decode().splitlines()
        assert lines[0] == '"text"'
        assert all(line.startswith('"') and line.endswith('"') for line in lines)
        (header, *rows) = csv.reader(lines)
        assert [len(row[0]) for row in rows] == [len(text) for text in texts for _ in range(10)]

    # Training and evaluation: the YAML's defaults, nothing changed but the model
    done = run([*cold(TRAIN), local(f"model={SMALL}")])
    assert "no GPU: quant is ignored" in done.stdout
    steps = sorted(int(folder.name.split("-")[1]) for folder in (workplace / "model_out").glob("checkpoint-*"))
    assert steps == [13 * epoch for epoch in range(1, 21)]
    settings = json.loads((workplace / "model_out/checkpoint-130/adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["lora_dropout"]) == (16, 16, 0.0)
    projections = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert {name.split(".")[-1] for name in settings["target_modules"]} == set(projections)
    log = json.loads((workplace / "model_out/checkpoint-260/trainer_state.json").read_text())["log_history"]
    assert log[-1]["loss"] < log[0]["loss"]

    # Of fewer people, since most of the time goes into choosing among everybody's answers.
    people = workplace / "data/biography_synthetic.csv"
    people.write_text("".join(people.read_text().splitlines(keepends=True)[:21]))
    run(cold(EVALUATE))
    evaluation = workplace / "model_out/checkpoint-130/evaluation"
    metrics = json.loads((evaluation / "metrics.json").read_text())
    assert set(metrics) == {"fields", "average", "config", "versions", "commit", "device", "seconds", "sha256"}
    measures = {"exact_match", "f1", "log_likelihood", "choice_accuracy"}
    assert all(set(scores) == measures for scores in (*metrics["fields"].values(), metrics["average"]))
    with open(evaluation / "predictions.csv", newline="") as opened:
        answers = list(csv.DictReader(opened))
    columns = ["field", "name", "prompt", "answer", "prediction", "exact_match", "f1", "log_likelihood", "chosen"]
    assert list(answers[0]) == columns
    assert len(answers) == 100
    for field, scores in metrics["fields"].items():
        field_answers = [answer for answer in answers if answer["field"] == field]
        mean = np.mean([float(answer["log_likelihood"]) for answer in field_answers])
        assert scores["log_likelihood"] == pytest.approx(mean)
        right = np.mean([answer["chosen"] == answer["answer"] for answer in field_answers])
        assert scores["choice_accuracy"] == pytest.approx(100 * right)
    # The authors' limit of ten tokens would cut some of them too.
    without_examples = ["shots=0", "examples=data/prompts_statements.csv"]
    done = run([*EVALUATE.split(), "people=1", "choice=false", "max_new_tokens=1", *without_examples])
    assert re.search(r"max_new_tokens=1 cuts \d of 5 gold answers short", done.stdout)
    # A whole model needs no base.
    done = run(["python", "evaluate.py", local(f"model_dir={SMALL}"), local(f"model={SMALL}")], code=2)
    assert "leave it out" in done.stderr


@pytest.mark.parametrize("command", [SAVE, CONTRAST, AUGMENT_RANDOM, AUGMENT_ATTENTION, TRAIN, EVALUATE])
def test_without_plus_signs_the_configuration_is_the_same(command):
    from hydra import compose, initialize_config_dir

    from utils.script import CONFIG_FOLDER

    script, *arguments = command.split()[1:]
    overrides = [argument for argument in arguments if "=" in argument]
    with initialize_config_dir(str(CONFIG_FOLDER), version_base=None):
        with_plus = compose(script.removesuffix(".py"), overrides)
        without = compose(script.removesuffix(".py"), [override.removeprefix("+") for override in overrides])
    assert with_plus == without


def test_the_tests_hide_the_gpu():
    """All tests but the GPU's own; conftest.py does it."""
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
