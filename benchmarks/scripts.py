"""The five scripts: memory as the texts grow, and how long they take to start."""

import shutil
import statistics
from pathlib import Path

from benchmarks.contrast import random_dump
from benchmarks.timing import ROOT, biographies, fastest_dtype, row, script, write_texts
from benchmarks.training import precision
from tests import tiny
from utils import attention_dump, biography

SCRIPTS = ("save_attention", "contrast_attention", "data_augmentation", "train", "evaluate")


def memory(models: dict[str, str], quick: bool) -> None:
    """Stages 1 to 3 of some texts and of ten times as many, by a tiny model: stage 1 holds neither texts nor values,
    the others hold dumps."""
    tiny.save(Path("tiny"), "llama", num_hidden_layers=1)
    data = ("model=tiny", "dataset=texts.csv")
    stages = {
        "save_attention": (*data, "save_name=large", "dtype=float32", "batch_tokens=16384"),
        "contrast_attention": ("attn_dump_large=large", "attn_dump_small=small", "attn_diff=both"),
        "data_augmentation": (
            *(*data, "save_name=variants", "attn_weights=both"),
            *("augment_type=attention", "alpha=0.7", "beta=0.05", "multiply=1"),
        ),
    }
    few, many = (100, 1_000) if quick else (10_000, 100_000)
    peaks: dict[str, list[int]] = {name: [] for name in stages}
    tokens_in_dump = []
    for count in (few, many):
        write_texts("texts.csv", biographies(count))
        for name, options in stages.items():
            peaks[name].append(script(name, *options)[1])
            if name == "save_attention":
                shutil.copy("large.pkl", "small.pkl")
        tokens_in_dump.append(len(attention_dump.read_dump("large").values))
    for name, (least, most) in peaks.items():
        found = f"{most / least:.2f} times"
        if name != "save_attention":
            bytes_per_token = (most - least) * 2**20 / (tokens_in_dump[1] - tokens_in_dump[0])
            found = f"{bytes_per_token:.0f} bytes a token of a dump"
        name = f"{name}.py, {few:,} and {many:,} texts, a tiny model, peak memory"
        row(name, "-", f"{least:,} and {most:,} MB", found)


def start(models: dict[str, str], quick: bool) -> None:
    for option, what, code in (("--help", "--help", 0), ("no_such_key=1", "a config error", 2)):
        slowest = max(statistics.median(script(name, option, code=code)[0] for _ in range(3)) for name in SCRIPTS)
        row(f"{what}, the slowest of the five scripts", "-", f"{slowest:.2f} s", "-")


def start_up(models: dict[str, str], quick: bool) -> None:
    """What a run of one row takes, as a share of a run of 1,000 rows (people, for evaluate.py).

    Measured with fewer rows where 1,000 would take minutes, and then carried on at the same pace.
    A difference of a few per cent means nothing here: each is one run.
    """
    small, dtype, dataset = f"model={models['small']}", f"dtype={fastest_dtype()}", "dataset=texts.csv"
    asked = (f"examples={ROOT / 'data/biography_real.csv'}", f"prompts={ROOT / 'data/prompts_statements.csv'}")
    once = ("attn_implementation=eager", "trainer.num_train_epochs=1", "trainer.save_strategy=no")
    random = ("augment_type=random", "alpha=0.7", "multiply=10")
    stages = {
        "save_attention": (200, small, dataset, "save_name=dump", dtype),
        "contrast_attention": (1000, "attn_dump_large=large", "attn_dump_small=small", "attn_diff=both"),
        "data_augmentation": (1000, small, dataset, "save_name=variants", *random),
        "train": (40, small, dataset, "model_dir=trained", *precision(), *once),
        "evaluate": (10, small, dataset, "output_dir=answers", "choice=false", dtype, *asked),
    }
    for name, (many, *options) in stages.items():
        seconds = []
        for count in (1, 3 if quick else many):
            texts = biographies(count, tagged=True)
            write_texts("texts.csv", texts)
            if name == "contrast_attention":
                for seed, size in enumerate(("large", "small")):
                    dump = random_dump(models[size], list(map(biography.strip_tags, texts)), seed)
                    attention_dump.write(dump, size)
            seconds.append(script(name, *options)[0])
        one, all_rows = seconds
        thousand = one + max(0.0, all_rows - one) * 999 / (count - 1)
        row(f"{name}.py, start-up", f"1,000 rows: {thousand:.1f} s", f"1 row: {one:.1f} s", f"{one / thousand:.0%}")


STAGES = (memory, start, start_up)
