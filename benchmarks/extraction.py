"""Received attention: biographies in batches, and long texts with their memory.

python -m benchmarks.extraction MODEL TOKENS plain|body|ours DTYPE    (one long text: seconds, MB above the weights)
"""

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.plain import extraction as plain_extraction
from benchmarks.timing import ROOT, alternate, biographies, compare, environment, fastest_dtype, row
from utils import received_attention, tokens
from utils.models import load_model
from utils.padding import batches, padded
from utils.runtime import use_huge_pages
from utils.tokenizer import load_tokenizer


def body(model, ids: list[list[int]], in_batches: list[list[int]]) -> Callable[[], None]:
    """The model without its vocabulary head, with torch's fused attention: what the hardware allows, nearly."""

    @torch.inference_mode()
    def run():
        model.set_attn_implementation("sdpa")
        for batch in in_batches:
            input_ids, mask = padded([ids[index] for index in batch])
            model.base_model(input_ids=input_ids, attention_mask=mask, use_cache=False)

    return run


def short_texts(models: dict[str, str], quick: bool) -> None:
    """Batches of biographies: against one text at a time, and against the bare body over the same batches."""
    # The bare body and the plain way do not attend by our implementation, so they have a model of their own.
    model, other = (load_model(models["small"], fastest_dtype()) for _ in range(2))
    encoded = tokens.encode(load_tokenizer(models["small"]), biographies(100 if quick else 1000))
    ids = [encoded_text.input_ids for encoded_text in encoded]
    few = ids[: 10 if quick else 50]
    in_batches = batches([len(encoded_text) for encoded_text in ids], 2048)
    receive = received_attention.ReceivedAttention(model)
    plain = partial(plain_extraction.received_attention, other, few)

    def ours(part):
        for batch in part:
            receive.texts([ids[index] for index in batch])

    for defined, found in zip(plain(), receive.texts(few), strict=True):
        # bfloat16 through 30 layers, in other batches: single values differ by a few per cent.
        np.testing.assert_allclose(found, defined, rtol=0.2, atol=0.003)
    turns = []
    # In parts, each with short and long batches, so that there is a spread.
    parts = 2 if quick else 5
    for first in range(parts):
        part = in_batches[first::parts]
        count = sum(len(ids[index]) for batch in part for index in batch)
        ways = [(plain, sum(map(len, few))), (body(other, ids, part), count), (partial(ours, part), count)]
        turns.append([rate for (rate,) in alternate(1, *ways)])
    plain_rates, body_rates, our_rates = (list(rates) for rates in zip(*turns, strict=True))
    name = f"extraction, {len(ids):,} biographies"
    compare(name, "one text at a time", plain_rates, our_rates, "tokens/s")
    compare(name, "bare body", body_rates, our_rates, "tokens/s")


def measure(folder: str, length: int, way: str, dtype: str) -> tuple[float, float]:
    """Seconds, and MB above the weights, of one text in this process, which does nothing else."""
    use_huge_pages()
    model = load_model(folder, dtype)
    ids = torch.randint(3, model.config.vocab_size, (length,), generator=torch.Generator().manual_seed(0)).tolist()
    # Touches all weights.
    body(model, [ids[:64]], [[0]])()
    receive = received_attention.ReceivedAttention(model) if way == "ours" else None
    run = {
        "plain": lambda ids: plain_extraction.received_attention(model, [ids]),
        "body": lambda ids: body(model, [ids], [[0]])(),
        "ours": lambda ids: receive.texts([ids]),
    }[way]
    # Loading the model has its own peak: Linux forgets it on request.
    Path("/proc/self/clear_refs").write_text("5")
    before = kilobytes("VmRSS")
    # What a process sets up once counts for the memory, not for the time.
    run(ids[:64])
    started = time.perf_counter()
    run(ids)
    return time.perf_counter() - started, (kilobytes("VmHWM") - before) / 1024


def kilobytes(what: str) -> int:
    """VmRSS, held now, or VmHWM, the most that was held (Linux)."""
    return int(re.search(rf"{what}:\s*(\d+)", Path("/proc/self/status").read_text())[1])


def measured(folder: str, length: int, way: str) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.extraction", folder, str(length), way, fastest_dtype()]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment(way))
    seconds, megabytes = map(float, done.stdout.split()[-2:])
    return seconds, max(megabytes, 1)


def long_texts(models: dict[str, str], quick: bool) -> None:
    length, repeats = (256, 1) if quick else (2048, 3)
    turns = [[measured(models["small"], length, way) for way in ("plain", "body", "ours")] for _ in range(repeats)]
    plain_rates, body_rates, our_rates = (
        [length / seconds for seconds, _ in runs] for runs in zip(*turns, strict=True)
    )
    memory = [statistics.median(megabytes for _, megabytes in runs) for runs in zip(*turns, strict=True)]
    name = f"extraction, one text of {length:,}"
    compare(name, "all layers' maps", plain_rates, our_rates, "tokens/s")
    compare(name, "bare body", body_rates, our_rates, "tokens/s")
    maps, found = f"all layers' maps: {memory[0]:,.0f} MB", f"{memory[2]:,.0f} MB"
    row(f"{name}, memory above the weights", maps, found, f"{memory[0] / memory[2]:.0f}")


def growth(models: dict[str, str], quick: bool) -> None:
    """Memory from a length to eight times as much, time beside the bare body, and a very long text."""
    short, long, very_long = (32, 256, 400) if quick else (1024, 8192, 32768)
    _, least = measured(models["small"], short, "ours")
    body_seconds, _ = measured(models["small"], long, "body")
    seconds, most = measured(models["small"], long, "ours")
    name = f"extraction, from {short:,} to {long:,} tokens, memory above the weights"
    row(name, "-", f"{least:,.0f} to {most:,.0f} MB", f"{most / least:.1f} times")
    name = f"extraction, one text of {long:,}"
    row(name, f"bare body: {body_seconds:.1f} s", f"{seconds:.1f} s", f"{seconds / body_seconds:.2f} times")
    seconds, most = measured(models["large"], very_long, "ours")
    name = f"extraction, {Path(models['large']).name}, one text of {very_long:,}"
    row(name, "-", f"{seconds:.0f} s, {most:,.0f} MB above the weights", "-")


STAGES = (short_texts, long_texts, growth)

if __name__ == "__main__":
    print(*measure(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
