"""Each stage beside the plain way, in one run, alternating: ratios of medians, their spread, and peak memory.

    make bench            (QUICK=1 for smaller inputs and fewer repeats)

Answers are compared before anything is timed. What is not measured here yet: training and evaluation.
"""

import argparse
import itertools
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.plain import contrast as plain_contrast
from benchmarks.plain import dropout as plain_dropout
from benchmarks.plain import extraction as plain_extraction
from utils import biography, contrast, dropout, received_attention, tokens
from utils.attention_dump import Dump, Row, text_hash
from utils.models import load_model

ROOT = Path(__file__).resolve().parent.parent
SMALL, LARGE = ROOT / "models/smollm2-135m", ROOT / "models/gemma3-270m"

Timed = Callable[[], object]


def alternate(repeats: int, *timed: tuple[Timed, float]) -> list[list[float]]:
    """Units a second of each (function, units of work), measured in turns."""
    rates: list[list[float]] = [[] for _ in timed]
    for _ in range(repeats):
        for (function, units), found in zip(timed, rates, strict=True):
            started = time.perf_counter()
            function()
            found.append(units / (time.perf_counter() - started))
    return rates


def report(stage: str, against: str, base: list[float], ours: list[float], unit: str, target: float) -> None:
    ratio = statistics.median(ours) / statistics.median(base)
    spread = sorted(one / other for one, other in zip(ours, base, strict=True))
    verdict = "reached" if ratio >= target else "NOT reached"
    print(
        f"| {stage} | {against}: {statistics.median(base):,.0f} {unit} | {statistics.median(ours):,.0f} {unit} "
        f"| {ratio:.2f} ({spread[0]:.2f} to {spread[-1]:.2f}) | {target:g} | {verdict} |",
        flush=True,
    )


def biographies(count: int) -> list[str]:
    texts = [biography.strip_tags(tagged) for tagged in biography.read_texts(ROOT / "data/biography_synthetic.csv")]
    return list(itertools.islice(itertools.cycle(texts), count))


def short_texts(quick: bool) -> None:
    """Batches of biographies: against one text at a time, and against the bare body over the same batches."""
    model, tokenizer = load_model(str(SMALL)), tokens.load_tokenizer(str(SMALL))
    ids = [of_text.input_ids for of_text in tokens.encode(tokenizer, biographies(100 if quick else 1000))]
    few = ids[: 10 if quick else 50]
    count, count_few = sum(map(len, ids)), sum(map(len, few))
    batches = received_attention.batches([len(of_text) for of_text in ids], 2048)

    def plain():
        return plain_extraction.received_attention(model, few)

    def streamed():
        receive = received_attention.ReceivedAttention(model)
        for batch in batches:
            receive.texts([ids[index] for index in batch])

    for defined, found in zip(plain(), received_attention.ReceivedAttention(model).texts(few), strict=True):
        # bfloat16 through 30 layers, in other batches: single values differ by a few per cent.
        np.testing.assert_allclose(found, defined, rtol=0.2, atol=0.003)
    rates = alternate(2 if quick else 3, (plain, count_few), (body(model, ids, batches), count), (streamed, count))
    report("extraction, short texts", "one text at a time", rates[0], rates[2], "tokens/s", 4)
    report("extraction, short texts", "bare body", rates[1], rates[2], "tokens/s", 1)


def body(model, ids: list[list[int]], batches: list[list[int]]) -> Timed:
    """The model without its vocabulary head, with torch's fused attention: what the hardware allows, nearly."""

    @torch.inference_mode()
    def run():
        model.set_attn_implementation("sdpa")
        for batch in batches:
            longest = max(len(ids[index]) for index in batch)
            padded = torch.tensor([ids[index] + [0] * (longest - len(ids[index])) for index in batch])
            mask = torch.tensor([[1] * len(ids[index]) + [0] * (longest - len(ids[index])) for index in batch])
            model.base_model(input_ids=padded, attention_mask=mask, use_cache=False)

    return run


def long_text(length: int, way: str) -> None:
    """In a process of its own: prints seconds and MB above the weights for one text of `length` tokens."""
    model = load_model(str(SMALL))
    ids = torch.randint(3, 40000, (length,), generator=torch.Generator().manual_seed(0)).tolist()
    run = {
        "plain": lambda: plain_extraction.received_attention(model, [ids]),
        "body": body(model, [ids], [[0]]),
        "ours": lambda: received_attention.ReceivedAttention(model).texts([ids]),
    }[way]
    # Touches all weights and sets up what is set up once.
    body(model, [ids[:64]], [[0]])()
    # Loading the model has its own peak: Linux forgets it on request.
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_in_kilobytes("VmRSS")
    started = time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    print(seconds, (memory_in_kilobytes("VmHWM") - before) / 1024)


def memory_in_kilobytes(what: str) -> int:
    """VmRSS, held now, or VmHWM, the most that was held (Linux)."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1])


def long_texts(quick: bool) -> None:
    length, repeats = (512, 1) if quick else (2048, 3)
    found: dict[str, list[tuple[float, float]]] = {"plain": [], "body": [], "ours": []}
    for _ in range(repeats):
        for way, measured in found.items():
            command = [sys.executable, __file__, "--long-text", str(length), way]
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
            measured.append(tuple(map(float, done.stdout.split()[-2:])))
    rates = {way: [length / seconds for seconds, _ in measured] for way, measured in found.items()}
    memory = {way: [1 / max(megabytes, 1) for _, megabytes in measured] for way, measured in found.items()}
    name = f"extraction, one text of {length}"
    report(name, "all layers' maps", rates["plain"], rates["ours"], "tokens/s", 12)
    report(name, "bare body", rates["body"], rates["ours"], "tokens/s", 0.5)
    ratio = statistics.median(memory["ours"]) / statistics.median(memory["plain"])
    print(
        f"| {name}, memory above the weights | all layers' maps: {1 / statistics.median(memory['plain']):,.0f} MB "
        f"| {1 / statistics.median(memory['ours']):,.0f} MB | {ratio:.2f} | 30 "
        f"| {'reached' if ratio >= 30 else 'NOT reached'} |",
        flush=True,
    )


def dumps(texts: list[str]) -> tuple[Dump, Dump]:
    """Random values on the two real tokenizers' tokens of these texts."""
    made = []
    for folder, seed in ((LARGE, 0), (SMALL, 1)):
        generator = np.random.default_rng(seed)
        encoded = tokens.encode(tokens.load_tokenizer(str(folder)), list(dict.fromkeys(texts)))
        offsets = dict(zip(dict.fromkeys(texts), [of_text.offsets for of_text in encoded], strict=True))
        rows = [
            Row(text_hash(text), generator.random(len(offsets[text]), dtype=np.float32), offsets[text])
            for text in texts
        ]
        made.append(Dump.of(folder.name, folder.name, {}, rows))
    return made[0], made[1]


def numpy_half(quick: bool) -> None:
    """Contrast across tokenizers, and token-dropout: ours over many rows, the plain way over fewer."""
    texts = biographies(5_000 if quick else 100_000)
    few = 200 if quick else 2_000
    large, small = dumps(texts)
    few_large, few_small = (Dump.of(dump.model, dump.tokenizer, {}, dump.rows[:few]) for dump in (large, small))

    differences = plain_contrast.difference(few_large, few_small)
    for defined, row in zip(differences, contrast.contrast(few_large, few_small).rows, strict=True):
        np.testing.assert_allclose(row.values, defined, rtol=1e-4, atol=1e-6)
    rates = alternate(
        3,
        (lambda: plain_contrast.difference(few_large, few_small), few),
        (lambda: contrast.contrast(large, small), len(texts)),
    )
    report(f"contrast, {len(texts):,} rows, two tokenizers", "loop over characters", *rates, "texts/s", 20)

    many = 500 if quick else 10_000

    def plain_variants():
        for text, row in zip(texts[:few], few_small.rows, strict=True):
            plain_dropout.variants(text, row.offsets, row.values, 0.7, 0.05, 10)

    def ours():
        for first in range(0, many, 1000):
            chunk = slice(first, min(first + 1000, many))
            bounds = small.bounds[chunk.start : chunk.stop + 1]
            of_tokens = slice(bounds[0], bounds[-1])
            keep = dropout.keep_by_rank(small.values[of_tokens], bounds - bounds[0], 0.7, 0.05)
            generator = np.random.default_rng(first)
            dropout.variants(texts[chunk], small.offsets[of_tokens], bounds - bounds[0], keep, 10, generator)

    rates = alternate(3, (plain_variants, few * 10), (ours, many * 10))
    report("token-dropout, 10 variants a text", "loop over tokens", *rates, "variants/s", 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller inputs, fewer repeats")
    parser.add_argument("--long-text", nargs=2, metavar=("TOKENS", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.long_text:
        long_text(int(arguments.long_text[0]), arguments.long_text[1])
        return
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    print("| stage | the plain way | ours | ratio of medians (spread) | to reach | verdict |")
    print("| --- | --- | --- | --- | --- | --- |")
    for stage in (numpy_half, short_texts, long_texts):
        stage(arguments.quick)


if __name__ == "__main__":
    main()
