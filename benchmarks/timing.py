"""What the benchmarks share: texts, rates measured in turns, a script's time and memory, rows of the report."""

import functools
import itertools
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from utils import biography
from utils.texts import csv_rows

ROOT = Path(__file__).resolve().parent.parent

# A function, and the units of work that it does.
Way = tuple[Callable[[], object], float]


def alternate(repeats: int, *ways: Way) -> list[list[float]]:
    """Units a second of each way, measured in turns."""
    rates: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats):
        for (function, units), found in zip(ways, rates, strict=True):
            started = time.perf_counter()
            function()
            found.append(units / (time.perf_counter() - started))
    return rates


def row(stage: str, plain: str, ours: str, found: str) -> None:
    print(f"| {stage} | {plain} | {ours} | {found} |", flush=True)


def compare(stage: str, against: str, plain: list[float], ours: list[float], unit: str) -> None:
    """A row of two ways' rates: the ratio of their medians, and the ratios of single turns from least to most."""
    ratio = statistics.median(ours) / statistics.median(plain)
    turns = [one / other for one, other in zip(ours, plain, strict=True)]
    rates = [f"{statistics.median(way_rates):,.0f} {unit}" for way_rates in (plain, ours)]
    row(stage, f"{against}: {rates[0]}", rates[1], f"{ratio:.2f} ({min(turns):.2f} to {max(turns):.2f})")


@functools.cache
def product_rates() -> dict[str, float]:
    """GFLOP/s by precision of a product as SmolLM2's layers have them, 2,048 x 576 by 576 x 1,536."""
    found = {}
    for dtype in ("bfloat16", "float32"):
        left, right = (torch.ones(shape, dtype=getattr(torch, dtype)) for shape in ((2048, 576), (576, 1536)))
        (rates,) = alternate(5, (partial(torch.mm, left, right), 2 * 2048 * 576 * 1536 / 1e9))
        found[dtype] = statistics.median(rates)
    return found


def fastest_dtype() -> str:
    """What the models run in, both ways: bfloat16, unless this processor only imitates it."""
    return max(product_rates(), key=product_rates().get)


def biographies(count: int, tagged: bool = False) -> list[str]:
    """The invented people's, again and again."""
    texts = biography.read_texts(ROOT / "data/biography_synthetic.csv")
    return list(itertools.islice(itertools.cycle(texts if tagged else map(biography.strip_tags, texts)), count))


def write_texts(path: str, texts: list[str]) -> None:
    Path(path).write_bytes(csv_rows(texts, header=True))


def environment(way: str) -> dict[str, str]:
    """For a process of one way: huge pages and brief waiting (utils/runtime.py) are not the plain one's."""
    defaults = {"THP_MEM_ALLOC_ENABLE": "0", "GOMP_SPINCOUNT": "300000"}
    return os.environ | {"PYTHONPATH": str(ROOT)} | (defaults if way == "plain" else {})


def script(name: str, *overrides: str, code: int = 0) -> tuple[float, int, str]:
    """Seconds, peak memory in MB and output of one of the five scripts."""
    # The kernel's own count of a child begins at its parent's memory, so the script's process says what it took.
    watched = """
import atexit, runpy, sys
atexit.register(lambda: print(open("/proc/self/status").read()))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    command = [sys.executable, "-c", watched, str(ROOT / f"{name}.py"), *overrides]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment("ours"))
    seconds = time.perf_counter() - started
    if done.returncode != code:
        raise RuntimeError(f"{name}.py: exit code {done.returncode}\n{done.stdout}")
    return seconds, int(re.findall(r"VmHWM:\s*(\d+)", done.stdout)[-1]) // 1024, done.stdout
