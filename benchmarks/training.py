"""One epoch of LoRA on variants of the biographies, the same batches both ways: speed, and each seed's losses."""

import csv
import re
import subprocess
import sys

import numpy as np

from benchmarks.timing import biographies, compare, environment, fastest_dtype, row, script, write_texts
from utils import tokens
from utils.tokenizer import load_tokenizer


def precision() -> list[str]:
    """What runs train.py in the precision of all rows."""
    dtype = fastest_dtype()
    return ["quant=null", f"dtype={dtype}", f"trainer.bf16={'true' if dtype == 'bfloat16' else 'false'}"]


def training(models: dict[str, str], quick: bool) -> None:
    model = models["small"]
    # The authors' 8 texts a step; fewer where that would take hours.
    batch_size = 8 if fastest_dtype() == "bfloat16" and not quick else 2
    rows, seeds = (12, 1) if quick else (100 * batch_size, 3)
    texts = biographies(min(100, rows))
    write_texts("texts.csv", texts)
    options = ("augment_type=random", "alpha=0.7", f"multiply={rows // len(texts)}", f"model={model}")
    script("data_augmentation", *options, "dataset=texts.csv", "save_name=variants")
    dataset = "data_augmented/variants.csv"
    with open(dataset, newline="", encoding="utf-8") as opened:
        variants = [cells["text"] for cells in csv.DictReader(opened)]
    count = sum(len(encoded_text.input_ids) for encoded_text in tokens.encode(load_tokenizer(model), variants))
    printed: dict[str, list[str]] = {"plain": [], "ours": []}
    for seed in map(str, range(1, seeds + 1)):
        module = [sys.executable, "-m", "benchmarks.plain.training"]
        command = [*module, model, dataset, "plain", seed, str(batch_size), fastest_dtype()]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment("plain"))
        printed["plain"].append(done.stdout)
        options = [f"model={model}", f"dataset={dataset}", f"model_dir=ours{seed}", f"seed={seed}", *precision()]
        options += ["attn_implementation=eager", f"trainer.per_device_train_batch_size={batch_size}"]
        options += ["trainer.num_train_epochs=1", "trainer.logging_steps=1", "trainer.save_strategy=no"]
        printed["ours"].append(script("train", *options)[2])
    rates, losses = {}, {}
    for way, outputs in printed.items():
        rates[way] = [count / float(re.search(r"'train_runtime': '?([\d.]+)", one)[1]) for one in outputs]
        losses[way] = np.array([re.findall(r"{'loss': '?([\d.]+)", one) for one in outputs], dtype=float)
    # Both ways start from the same weights; the first loss differs by rounding, in bfloat16 the most.
    np.testing.assert_allclose(losses["ours"][:, 0], losses["plain"][:, 0], rtol=0.02)
    compare("training, LoRA", "checkpointing, sdpa", rates["plain"], rates["ours"], "tokens/s")
    steps = losses["ours"].shape[1]
    # [seeds, tenths of the run]
    plain, ours = (
        np.stack([tenth.mean(axis=1) for tenth in np.array_split(losses[way], min(10, steps), axis=1)], axis=1)
        for way in ("plain", "ours")
    )
    name = f"training, {steps} steps, {seeds} seeds, loss by tenths of the run"
    apart = f"seeds up to {np.ptp(plain, axis=0).max():.3f} apart"
    row(name, apart, f"up to {np.abs(ours - plain).max():.3f} from the plain way, seed by seed", "-")


STAGES = (training,)
