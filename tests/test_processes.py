"""Several processes (gloo, on the CPU) do what one does."""

import csv
import io
import json
import re
import shutil
import sys
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from tests.conftest import ROOT
from utils import processes, runtime

TORCHRUN = "torchrun --nproc-per-node 2 --master-port 0 --rdzv-backend c10d --rdzv-endpoint localhost:0"


def test_two_processes_write_the_dump_of_one(run, workplace, tiny_model):
    arguments = f"save_attention.py model={tiny_model} dataset=data/biography_real.csv batch_tokens=256"
    alone = run(f"python {arguments} save_name=one", OMP_NUM_THREADS="1")
    shared = run(f"{TORCHRUN} {arguments} save_name=two")
    # One process writes, and each reads half of the batches.
    assert shared.stdout.count("two.pkl: ") == shared.stdout.count("Took ") == 1
    # So it does of progress, line by line.
    assert shared.stderr.count("attention:   0%") == shared.stderr.count("Loading weights:   0%") == 1
    assert "\r" not in alone.stderr + shared.stderr
    batches_alone, batches_each = (
        int(re.search(r"attention: .* 0/(\d+) ", done.stderr)[1]) for done in (alone, shared)
    )
    assert batches_alone == 2 * batches_each
    # The batches are the same ones, and so, with a thread each, are the sums.
    assert (workplace / "one.pkl").read_bytes() == (workplace / "two.pkl").read_bytes()


def test_what_several_processes_kept_another_number_goes_on_from(run, workplace, tiny_model):
    arguments = f"save_attention.py model={tiny_model} dataset=data/biography_real.csv batch_tokens=256 save_name=kept"
    script = (workplace / "save_attention.py").read_text()
    # The second process dies in its second batch; torchrun then ends the first.
    dying = """
    import os, signal, time
    read = received_attention.ReceivedAttention.texts
    def counted(receive, *arguments, calls=[]):
        calls.append(1)
        if len(calls) == 2:
            time.sleep(60) if os.environ["RANK"] == "0" else os.kill(os.getpid(), signal.SIGKILL)
        return read(receive, *arguments)
    received_attention.ReceivedAttention.texts = counted
"""
    (workplace / "dying.py").write_text(script.replace("    # Prepare data\n", dying, 1))
    run(f"{TORCHRUN} {arguments.replace('save_attention', 'dying', 1)}", code=1)
    assert {path.name for path in (workplace / ".kept.pkl.kept").iterdir()} == {"0.jsonl", "1.jsonl", "lock"}
    both = (run(f"python {arguments} resume=true"), run(f"python {arguments.replace('kept', 'unbroken')}"))
    batches_left, all_batches = (int(re.search(r"attention: .* 0/(\d+) ", done.stderr)[1]) for done in both)
    assert batches_left == all_batches - 2
    assert (workplace / "kept.pkl").read_bytes() == (workplace / "unbroken.pkl").read_bytes()
    assert not list(workplace.glob(".*.kept"))


def test_two_processes_train_and_share_the_batches(run, workplace, tiny_model):
    command = (
        f"{TORCHRUN} train.py model={tiny_model} model_dir=out trainer.num_train_epochs=2 "
        "trainer.per_device_train_batch_size=4 trainer.logging_steps=1"
    )
    done = run(command)
    # 100 texts in batches of 2 x 4: 13 steps an epoch, as of one process with 8.
    steps = sorted(int(folder.name.split("-")[1]) for folder in (workplace / "out").glob("checkpoint-*"))
    assert steps == [13, 26]
    assert done.stdout.count("Training ") == done.stdout.count("{'train_runtime': ") == 1
    assert done.stderr.count("steps:   0%") == done.stderr.count("steps: 100%") == 1
    assert "\r" not in done.stderr
    log = json.loads((workplace / "out/checkpoint-26/trainer_state.json").read_text())["log_history"]
    assert log[-1]["loss"] < log[0]["loss"]
    # Killed while the second process saved its state.
    weights = workplace / "out/checkpoint-26/adapter_model.safetensors"
    unbroken = weights.read_bytes()
    (workplace / "out/checkpoint-26/rng_state_1.pth").unlink()
    done = run(f"{command} resume=true")
    said = "out/checkpoint-26 lacks rng_state_1.pth; continuing from out/checkpoint-13\n"
    assert done.stdout.count(said) == 1
    assert weights.read_bytes() == unbroken


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


def test_two_processes_answer_free_questions_as_one_does(run, workplace, tiny_model):
    # The second process has nothing to choose among.
    rows = [
        "Is a open?,yes,open",
        "Where is b?,Osk,where",
        "Is c open?,no,open",
        "Where is d?,Bu,where",
        "Is e open?,yes,open",
        "Where is f?,Oz,where",
        "Is g open?,no,open",
    ]
    (workplace / "free.csv").write_text("\n".join(["question,answer,kind", *rows]))
    arguments = f"evaluate.py model={tiny_model} questions=free.csv shots=2 group=kind dtype=float32"
    done = [run(f"python {arguments} output_dir=free-alone"), run(f"{TORCHRUN} {arguments} output_dir=free-shared")]
    for one in done:
        assert (
            one.stdout.count("7 questions; ")
            == one.stdout.count("choice: no answers to choose from for 3 of 7 questions")
            == 1
        )
    alone, together = (
        list(csv.DictReader(io.StringIO((workplace / name / "predictions.csv").read_text())))
        for name in ("free-alone", "free-shared")
    )
    assert len(alone) == 7
    for one, other in zip(alone, together, strict=True):
        assert float(one.pop("log_likelihood")) == pytest.approx(float(other.pop("log_likelihood")), abs=1e-3)
        assert one == other


@pytest.mark.parametrize("weights", ["adapter", pytest.param("all weights", marks=pytest.mark.slow)])
def test_fsdp_trains_as_several_processes_do_without_it(weights, run, workplace, tiny_model):
    """The first process alone reads the model, and what each of them holds of it is trained."""
    where = weights.replace(" ", "_")
    options = f"model={tiny_model} dataset=data/biography_real.csv quant=null trainer.per_device_train_batch_size=4"
    # float32 throughout, since FSDP computes the loss itself in bfloat16.
    options += " trainer.bf16=false trainer.save_strategy=steps +trainer.save_steps=2 trainer.logging_steps=1"
    options += " trainer.learning_rate=0.01" + (" lora=null" if where == "all_weights" else "")
    options += " trainer.max_steps=4"
    run(f"{TORCHRUN} train.py {options} model_dir=plain_{where}")
    file = "model.safetensors" if where == "all_weights" else "adapter_model.safetensors"
    for resume in ("false", "true"):
        sharded = f"-m tests.fsdp {options} +trainer.fsdp=true model_dir=sharded_{where} resume={resume}"
        run(f"{TORCHRUN} {sharded}", PYTHONPATH=str(ROOT))
        last = [workplace / f"{name}_{where}/checkpoint-4" for name in ("plain", "sharded")]
        plain, found = (load_file(checkpoint / file) for checkpoint in last)
        assert plain.keys() == found.keys()
        for name, weight in plain.items():
            # Adam's first steps are as long wherever a gradient is not 0: rounding decides those that nearly are.
            assert (weight - found[name]).abs().mean() < 1e-4, name
        shutil.rmtree(last[1])


def test_processes_wait_a_day_for_each_other(monkeypatch):
    made = []
    monkeypatch.setattr(processes, "PartialState", lambda **options: made.append(options))
    monkeypatch.setattr(processes.atexit, "register", lambda *_: None)
    processes.processes.__wrapped__()
    assert made[0]["timeout"].days == 1


@pytest.mark.parametrize("backend", [None, "gloo", "nccl"])
@pytest.mark.parametrize("ended", ["well", "by stop", "by an exception"])
def test_a_process_that_failed_does_not_wait_for_the_others_under_nccl(backend, ended, monkeypatch):
    """They wait for it: torchrun ends them once it is gone."""
    left = []
    state = SimpleNamespace(backend=backend, destroy_process_group=lambda: left.append(True))
    monkeypatch.delattr(sys, "last_value", raising=False)
    monkeypatch.setattr(runtime, "has_stopped", False)
    if ended == "by stop":
        monkeypatch.setattr(runtime, "has_stopped", True)
    elif ended == "by an exception":
        monkeypatch.setattr(sys, "last_value", ValueError(), raising=False)
    processes.leave(state)
    assert left == ([] if backend == "nccl" and ended != "well" else [True])
