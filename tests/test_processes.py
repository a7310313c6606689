"""Several processes (gloo, on the CPU) do what one does."""

import csv
import io
import json
import re

import pytest

TORCHRUN = "torchrun --nproc-per-node 2 --master-port 0 --rdzv-backend c10d --rdzv-endpoint localhost:0"


def test_two_processes_write_the_dump_of_one(run, workplace, tiny_model):
    arguments = f"save_attention.py model={tiny_model} dataset=data/biography_real.csv batch_tokens=256"
    alone = run(f"python {arguments} save_name=one", OMP_NUM_THREADS="1")
    shared = run(f"{TORCHRUN} {arguments} save_name=two")
    # One process writes, and each reads half of the batches.
    assert shared.stdout.count("two.pkl: ") == 1
    of_one, of_each = (int(re.search(r"attention: .* 0/(\d+) ", done.stderr)[1]) for done in (alone, shared))
    assert of_one == 2 * of_each
    # The batches are the same ones, and so, with a thread each, are the sums.
    assert (workplace / "one.pkl").read_bytes() == (workplace / "two.pkl").read_bytes()


def test_two_processes_train_and_share_the_batches(run, workplace, tiny_model):
    done = run(
        f"{TORCHRUN} train.py model={tiny_model} model_dir=out trainer.num_train_epochs=2 "
        "trainer.per_device_train_batch_size=4 trainer.logging_steps=1"
    )
    # 100 texts in batches of 2 x 4: 13 steps an epoch, as of one process with 8.
    steps = sorted(int(folder.name.split("-")[1]) for folder in (workplace / "out").glob("checkpoint-*"))
    assert steps == [13, 26]
    assert done.stdout.count("Training ") == 1
    log = json.loads((workplace / "out/checkpoint-26/trainer_state.json").read_text())["log_history"]
    assert log[-1]["loss"] < log[0]["loss"]


def test_two_processes_answer_the_questions_of_one(run, workplace, tiny_model):
    arguments = f"evaluate.py model={tiny_model} people=5 shots=1 dtype=float32"
    run(f"python {arguments} output_dir=alone")
    shared = run(f"{TORCHRUN} {arguments} output_dir=shared")
    # One process writes and speaks.
    assert shared.stdout.count("25 questions; ") == 1
    alone, together = (
        list(csv.DictReader(io.StringIO((workplace / name / "predictions.csv").read_text())))
        for name in ("alone", "shared")
    )
    for one, other in zip(alone, together, strict=True):
        # Batches of other questions: other sums of float32.
        assert float(one.pop("log_likelihood")) == pytest.approx(float(other.pop("log_likelihood")), abs=1e-3)
        assert one == other
