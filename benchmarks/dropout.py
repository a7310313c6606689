"""Token-dropout: its speed, and the memory of a long file."""

import numpy as np

from benchmarks.contrast import random_dump
from benchmarks.plain import dropout as plain_dropout
from benchmarks.timing import alternate, biographies, compare, row, script, write_texts
from utils import dropout


def variants(models: dict[str, str], quick: bool) -> None:
    few, many = (200, 500) if quick else (2_000, 10_000)
    texts = biographies(many)
    dump = random_dump(models["small"], texts, 1)

    def plain():
        for text, weighed in zip(texts[:few], dump.rows[:few], strict=True):
            plain_dropout.variants(text, weighed.offsets, weighed.values, 0.7, 0.05, 10)

    def ours():
        for first in range(0, many, 1000):
            chunk = slice(first, min(first + 1000, many))
            bounds = dump.bounds[chunk.start : chunk.stop + 1]
            token_slice = slice(bounds[0], bounds[-1])
            keep = dropout.keep_by_rank(dump.values[token_slice], bounds - bounds[0], 0.7, 0.05)
            generator = np.random.default_rng(first)
            dropout.variants(texts[chunk], dump.offsets[token_slice], bounds - bounds[0], keep, 10, generator)

    rates = alternate(3, (plain, few * 10), (ours, many * 10))
    compare("token-dropout, 10 variants a text", "loop over tokens", *rates, "variants/s")


def flat_memory(models: dict[str, str], quick: bool) -> None:
    """Ten variants of each text of a file, and of one a hundred times as long."""
    few, many = (100, 1_000) if quick else (10_000, 1_000_000)
    peaks = []
    for count in (few, many):
        write_texts("texts.csv", biographies(count))
        options = ("augment_type=random", "alpha=0.7", "multiply=10", f"model={models['small']}", "dataset=texts.csv")
        seconds, peak, _ = script("data_augmentation", *options, "save_name=variants")
        peaks.append(peak)
    name = f"data_augmentation.py, {10 * few:,} and {10 * many:,} rows out, peak memory"
    ours = f"{peaks[0]:,} and {peaks[1]:,} MB ({10 * many / seconds:,.0f} rows/s)"
    row(name, "-", ours, f"{peaks[1] / peaks[0]:.2f} times")


STAGES = (variants, flat_memory)
