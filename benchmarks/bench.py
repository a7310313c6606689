"""Each stage beside the plain way, in one run, alternating: ratios of medians, their spread, and peak memory.

    make bench            (QUICK=1 for smaller inputs and fewer repeats)

Answers are compared as well, and a difference ends the run. `--small` and `--large` name other models' folders than
the two that `make models` fetches; the targets are for these.
"""

import argparse
import csv
import functools
import itertools
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.plain import contrast as plain_contrast
from benchmarks.plain import dropout as plain_dropout
from benchmarks.plain import evaluation as plain_evaluation
from benchmarks.plain import extraction as plain_extraction
from tests import tiny
from utils import answers, attention_dump, biography, contrast, dropout, questions, received_attention, tokens
from utils.attention_dump import Dump, Row, text_hash
from utils.models import load_model
from utils.padding import batches, padded
from utils.script import use_huge_pages
from utils.tokenizer import load_tokenizer

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("save_attention", "contrast_attention", "data_augmentation", "train", "evaluate")

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
    found = f"{ratio:.2f} ({spread[0]:.2f} to {spread[-1]:.2f})"
    plain, new = (f"{statistics.median(rates):,.0f} {unit}" for rates in (base, ours))
    row(stage, f"{against}: {plain}", new, found, f"≥ {target:g}", ratio >= target)


def row(stage: str, plain: str, ours: str, found: str, target: str, reached: bool) -> None:
    verdict = "reached" if reached else "NOT reached"
    print(f"| {stage} | {plain} | {ours} | {found} | {target} | {verdict} |", flush=True)


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


def biographies(count: int) -> list[str]:
    texts = [biography.strip_tags(tagged) for tagged in biography.read_texts(ROOT / "data/biography_synthetic.csv")]
    return list(itertools.islice(itertools.cycle(texts), count))


def short_texts(models: dict[str, str], quick: bool) -> None:
    """Batches of biographies: against one text at a time, and against the bare body over the same batches."""
    # The bare body and the plain way attend by other implementations than ours, so they have a model of their own.
    model, other = (load_model(models["small"], fastest_dtype()) for _ in range(2))
    tokenizer = load_tokenizer(models["small"])
    ids = [of_text.input_ids for of_text in tokens.encode(tokenizer, biographies(100 if quick else 1000))]
    few = ids[: 10 if quick else 50]
    in_batches = batches([len(of_text) for of_text in ids], 2048)

    receive = received_attention.ReceivedAttention(model)

    def plain():
        return plain_extraction.received_attention(other, few)

    def streamed(of_part):
        for batch in of_part:
            receive.texts([ids[index] for index in batch])

    for defined, found in zip(plain(), receive.texts(few), strict=True):
        # bfloat16 through 30 layers, in other batches: single values differ by a few per cent.
        np.testing.assert_allclose(found, defined, rtol=0.2, atol=0.003)
    rates: tuple[list[float], ...] = ([], [], [])
    # In parts, each with short and long batches, so that there is a spread.
    parts = 2 if quick else 5
    for first in range(parts):
        of_part = in_batches[first::parts]
        count = sum(len(ids[index]) for batch in of_part for index in batch)
        ways = [(plain, sum(map(len, few))), (body(other, ids, of_part), count), (partial(streamed, of_part), count)]
        for rate, (found,) in zip(rates, alternate(1, *ways), strict=True):
            rate.append(found)
    name = f"extraction, {len(ids):,} biographies"
    report(name, "one text at a time", rates[0], rates[2], "tokens/s", 4)
    report(name, "bare body", rates[1], rates[2], "tokens/s", 1)


def body(model, ids: list[list[int]], in_batches: list[list[int]]) -> Timed:
    """The model without its vocabulary head, with torch's fused attention: what the hardware allows, nearly."""

    @torch.inference_mode()
    def run():
        model.set_attn_implementation("sdpa")
        for batch in in_batches:
            of_batch, mask = padded([ids[index] for index in batch])
            model.base_model(input_ids=of_batch, attention_mask=mask, use_cache=False)

    return run


def long_text(folder: str, length: int, way: str, dtype: str) -> None:
    """In a process of its own: prints seconds and MB above the weights for one text of `length` tokens."""
    model = load_model(folder, dtype)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, model.config.vocab_size, (length,), generator=generator).tolist()
    # Touches all weights.
    body(model, [ids[:64]], [[0]])()
    if way == "ours":
        receive = received_attention.ReceivedAttention(model)
    run = {
        "plain": lambda ids: plain_extraction.received_attention(model, [ids]),
        "body": lambda ids: body(model, [ids], [[0]])(),
        "ours": lambda ids: receive.texts([ids]),
    }[way]
    # Loading the model has its own peak: Linux forgets it on request.
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_in_kilobytes("VmRSS")
    # What a process sets up once counts for the memory, not for the time.
    run(ids[:64])
    started = time.perf_counter()
    run(ids)
    seconds = time.perf_counter() - started
    print(seconds, (memory_in_kilobytes("VmHWM") - before) / 1024)


def memory_of_machine() -> int:
    """In bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def memory_in_kilobytes(what: str) -> int:
    """VmRSS, held now, or VmHWM, the most that was held (Linux)."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1])


def environment(way: str) -> dict[str, str]:
    """For a process of one way: huge pages (`use_huge_pages`) are not the plain one's."""
    return os.environ | ({"THP_MEM_ALLOC_ENABLE": "0"} if way == "plain" else {})


def measured(folder: str, length: int, way: str) -> tuple[float, float]:
    command = [sys.executable, __file__, "--long-text", folder, str(length), way, fastest_dtype()]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment(way))
    seconds, megabytes = map(float, done.stdout.split()[-2:])
    return seconds, max(megabytes, 1)


def long_texts(models: dict[str, str], quick: bool) -> None:
    length, repeats = (256, 1) if quick else (2048, 3)
    found: dict[str, list[tuple[float, float]]] = {"plain": [], "body": [], "ours": []}
    for _ in range(repeats):
        for way, of_way in found.items():
            of_way.append(measured(models["small"], length, way))
    rates = {way: [length / seconds for seconds, _ in of_way] for way, of_way in found.items()}
    memory = {way: statistics.median(megabytes for _, megabytes in of_way) for way, of_way in found.items()}
    name = f"extraction, one text of {length:,}"
    report(name, "all layers' maps", rates["plain"], rates["ours"], "tokens/s", 12)
    report(name, "bare body", rates["body"], rates["ours"], "tokens/s", 0.5)
    ratio = memory["plain"] / memory["ours"]
    plain, ours = (f"{memory[way]:,.0f} MB" for way in ("plain", "ours"))
    row(f"{name}, memory above the weights", f"all layers' maps: {plain}", ours, f"{ratio:.0f}", "≥ 30", ratio >= 30)


def growth(models: dict[str, str], quick: bool) -> None:
    """Memory from a length to eight times as much, time beside the bare body, and a very long text."""
    short, long, very_long = (32, 256, 400) if quick else (1024, 8192, 32768)
    _, least = measured(models["small"], short, "ours")
    seconds_of_body, _ = measured(models["small"], long, "body")
    seconds, most = measured(models["small"], long, "ours")
    name = f"extraction, from {short:,} to {long:,} tokens"
    memory = f"{least:,.0f} to {most:,.0f} MB"
    row(f"{name}, memory above the weights", "-", memory, f"{most / least:.1f} times", "≤ 8", most <= 8 * least)
    plain, ratio = f"bare body: {seconds_of_body:.1f} s", seconds / seconds_of_body
    row(f"extraction, one text of {long:,}", plain, f"{seconds:.1f} s", f"{ratio:.2f} times", "≤ 2", ratio <= 2)
    seconds, most = measured(models["large"], very_long, "ours")
    name = f"extraction, {Path(models['large']).name}, one text of {very_long:,}"
    free = memory_of_machine() / 2**20
    row(name, "-", f"{seconds:.0f} s, {most:,.0f} MB above the weights", "-", f"≤ {free:,.0f} MB", most <= free)


def dumps(models: dict[str, str], texts: list[str]) -> tuple[Dump, Dump]:
    """Random values on the two real tokenizers' tokens of these texts."""
    made = []
    for folder, seed in ((models["large"], 0), (models["small"], 1)):
        generator = np.random.default_rng(seed)
        encoded = tokens.encode(load_tokenizer(folder), list(dict.fromkeys(texts)))
        offsets = dict(zip(dict.fromkeys(texts), [of_text.offsets for of_text in encoded], strict=True))
        rows = [
            Row(text_hash(text), generator.random(len(offsets[text]), dtype=np.float32), offsets[text])
            for text in texts
        ]
        made.append(Dump.of(folder, folder, {}, rows))
    return made[0], made[1]


def numpy_half(models: dict[str, str], quick: bool) -> None:
    """Contrast across tokenizers, and token-dropout: ours over many rows, the plain way over fewer."""
    texts = biographies(5_000 if quick else 100_000)
    few = 200 if quick else 2_000
    large, small = dumps(models, texts)
    few_large, few_small = (Dump.of(dump.model, dump.tokenizer, {}, dump.rows[:few]) for dump in (large, small))

    differences = plain_contrast.difference(few_large, few_small)
    for text, defined, found in zip(texts, differences, contrast.contrast(few_large, few_small).rows, strict=False):
        # A tokenizer of bytes may cut other letters in two; the plain way knows nothing of tokens that share one.
        if text.isascii():
            np.testing.assert_allclose(found.values, defined, rtol=1e-4, atol=1e-6)
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


def script(name: str, *overrides: str) -> tuple[float, int, str]:
    """Seconds, peak memory in MB and output of one of the five scripts; it must succeed, or refuse a bad key."""
    started = time.perf_counter()
    command = [sys.executable, str(ROOT / f"{name}.py"), *overrides]
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        # Not child.wait(), which says nothing of memory.
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        printed = output.read()
    if child.returncode != (2 if "no_such_key=1" in overrides else 0):
        raise RuntimeError(f"{name}.py: exit code {child.returncode}\n{printed}")
    return seconds, usage.ru_maxrss // 1024, printed


def flat_memory(models: dict[str, str], quick: bool) -> None:
    """Token-dropout of a file, and of one a hundred times as long: ten variants a text."""
    few, many = (100, 1_000) if quick else (10_000, 1_000_000)
    found = []
    for count in (few, many):
        write_texts("texts.csv", biographies(count))
        options = ("augment_type=random", "alpha=0.7", "multiply=10", f"model={models['small']}", "dataset=texts.csv")
        found.append(script("data_augmentation", *options, "save_name=variants"))
    (_, least, _), (seconds, most, _) = found
    name = f"data_augmentation.py, {10 * few:,} and {10 * many:,} rows out, peak memory"
    ours = f"{least:,} and {most:,} MB ({10 * many / seconds:,.0f} rows/s)"
    row(name, "-", ours, f"{most / least:.2f} times", "≤ 1.1", most <= 1.1 * least)


def flat_stages(models: dict[str, str], quick: bool) -> None:
    """Stages 1 to 3 of some texts and of ten times as many, by a tiny model: stage 1 holds neither texts nor values,
    the others hold dumps."""
    tiny.save(Path("tiny"), "llama", num_hidden_layers=1)
    stages = {
        "save_attention": ("model=tiny", "dataset=texts.csv", "save_name=large", "dtype=float32", "batch_tokens=16384"),
        "contrast_attention": ("attn_dump_large=large", "attn_dump_small=small", "attn_diff=both"),
        "data_augmentation": (
            *("augment_type=attention", "alpha=0.7", "beta=0.05", "multiply=1", "attn_weights=both"),
            *("model=tiny", "dataset=texts.csv", "save_name=variants"),
        ),
    }
    peaks: dict[str, list[int]] = {name: [] for name in stages}
    few, many = (100, 1_000) if quick else (10_000, 100_000)
    in_dumps = []
    for count in (few, many):
        write_texts("texts.csv", biographies(count))
        for name, options in stages.items():
            peaks[name].append(own_peak(name, *options))
            if name == "save_attention":
                shutil.copy("large.pkl", "small.pkl")
        in_dumps.append(len(attention_dump.read_dump("large").values))
    for name, (least, most) in peaks.items():
        what, ours = f"{name}.py, {few:,} and {many:,} texts, a tiny model, peak memory", f"{least:,} and {most:,} MB"
        if name == "save_attention":
            row(what, "-", ours, f"{most / least:.2f} times", "≤ 1.1", most <= 1.1 * least)
        else:
            of_token = (most - least) * 2**20 / (in_dumps[1] - in_dumps[0])
            limit = 48 if name == "contrast_attention" else 32
            row(what, "-", ours, f"{of_token:.0f} bytes a token of a dump", f"≤ {limit}", of_token <= limit)


def own_peak(name: str, *overrides: str) -> int:
    """Peak memory of a script in MB, as its process has it: what `script` gives is no less than this process's."""
    code = """
import atexit, pathlib, re, runpy, sys
atexit.register(lambda: print(re.search("VmHWM.*", pathlib.Path("/proc/self/status").read_text())[0]))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    command = [sys.executable, "-c", code, str(ROOT / f"{name}.py"), *overrides]
    path = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=path)
    return int(done.stdout.split()[-2]) // 1024


def write_texts(path: str, texts: list[str]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([["text"], *([text] for text in texts)])


def precision() -> list[str]:
    """What runs train.py in the precision of all rows."""
    dtype = fastest_dtype()
    return ["quant=null", f"dtype={dtype}", f"trainer.bf16={'true' if dtype == 'bfloat16' else 'false'}"]


def training(models: dict[str, str], quick: bool) -> None:
    """One epoch of variants of the biographies, the same batches both ways: speed, and each seed's loss curve."""
    # The paper's 8 texts a step; fewer where that would take hours.
    batch_size = 8 if fastest_dtype() == "bfloat16" and not quick else 2
    rows, seeds = (12, 1) if quick else (100 * batch_size, 3)
    texts = biographies(min(100, rows))
    options = ("augment_type=random", "alpha=0.7", f"multiply={rows // len(texts)}", f"model={models['small']}")
    write_texts("texts.csv", texts)
    script("data_augmentation", *options, "dataset=texts.csv", "save_name=variants")
    dataset = "data_augmented/variants.csv"
    with open(dataset, newline="", encoding="utf-8") as opened:
        variants = [cells["text"] for cells in csv.DictReader(opened)]
    count = sum(len(of_text.input_ids) for of_text in tokens.encode(load_tokenizer(models["small"]), variants))
    rates: dict[str, list[float]] = {"plain": [], "ours": []}
    losses: dict[str, list[list[float]]] = {"plain": [], "ours": []}
    for seed in range(1, seeds + 1):
        module = [sys.executable, "-m", "benchmarks.plain.training"]
        command = [*module, models["small"], dataset, "plain", str(seed), str(batch_size), fastest_dtype()]
        path = environment("plain") | {"PYTHONPATH": str(ROOT)}
        plain = subprocess.run(command, check=True, capture_output=True, text=True, env=path).stdout
        ours = script(
            "train",
            f"model={models['small']}",
            f"dataset={dataset}",
            f"model_dir=ours{seed}",
            f"seed={seed}",
            *precision(),
            "attn_implementation=eager",
            "trainer.num_train_epochs=1",
            f"trainer.per_device_train_batch_size={batch_size}",
            "trainer.logging_steps=1",
            "trainer.save_strategy=no",
        )[2]
        for way, output in (("plain", plain), ("ours", ours)):
            rates[way].append(count / float(re.search(r"'train_runtime': '?([\d.]+)", output)[1]))
            losses[way].append([float(loss) for loss in re.findall(r"{'loss': '?([\d.]+)", output)])
    # Both ways start from the same weights; the first loss differs by rounding, in bfloat16 the most.
    first = [[curve[0] for curve in losses[way]] for way in ("ours", "plain")]
    np.testing.assert_allclose(*first, rtol=0.02)
    report("training, LoRA", "checkpointing, sdpa", rates["plain"], rates["ours"], "tokens/s", 2.5)
    steps = len(losses["ours"][0])
    tenths = np.array_split(np.arange(steps), 10 if steps >= 10 else 1)
    curves = {
        way: np.array([[np.mean(np.array(curve)[tenth]) for tenth in tenths] for curve in of_way])
        for way, of_way in losses.items()
    }
    apart = np.abs(curves["ours"] - curves["plain"]).max()
    noise = np.ptp(curves["plain"], axis=0).max()
    name = f"training, {steps} steps, {seeds} seeds, loss by tenths of the run"
    plain, ours = f"seeds up to {noise:.3f} apart", f"up to {apart:.3f} from the plain way, seed by seed"
    row(name, plain, ours, "-", "in the noise", apart <= noise)
    for way, of_way in curves.items():
        for seed, curve in enumerate(of_way, start=1):
            CURVES.append(f"{way}, seed {seed}: {' '.join(f'{loss:.3f}' for loss in curve)}")


CURVES: list[str] = []
"""The mean loss of each tenth of a run, for the end of the report."""


def evaluation(models: dict[str, str], quick: bool) -> None:
    """Five-shot questions. In float32 both ways must answer alike; timed they are in the precision of all rows."""
    prompts = questions.read_prompts(ROOT / "data/prompts_statements.csv")
    files = (ROOT / f"data/biography_{kind}.csv" for kind in ("synthetic", "real"))
    people, pool = (biography.read_people(file, prompts) for file in files)
    asked = questions.ask(people, pool, prompts, shots=5, seed=1, first=4 if quick else 100)
    tokenizer = load_tokenizer(models["small"])
    limit = max(answers.answer_tokens(tokenizer, asked))

    def plain(model, part):
        texts, golds = [question.prompt for question in part], [question.answer for question in part]
        return plain_evaluation.answers(model, tokenizer, texts, golds, limit)

    def ours(model, part):
        texts, golds = [question.prompt for question in part], [question.answer for question in part]
        found = {}
        for batch in answers.greedy_answers(model, tokenizer, texts, golds, limit, 4096):
            found |= batch
        return [found[index] for index in range(len(part))]

    exact, few = load_model(models["small"], "float32"), asked[:: max(1, len(asked) // 20)]
    for (text, likelihood), (other_text, other_likelihood) in zip(plain(exact, few), ours(exact, few), strict=True):
        # Log-likelihoods add up some ten float32 logits of magnitude 10.
        if text != other_text or abs(likelihood - other_likelihood) > 0.01:
            raise RuntimeError(f"{text!r} {likelihood} is {other_text!r} {other_likelihood} in the plain way")
    model = load_model(models["small"], fastest_dtype())
    rates: tuple[list[float], list[float]] = ([], [])
    # In five parts, each with all fields, so that there is a spread.
    for first in range(5):
        part = asked[first::5]
        # The plain way's batches are all alike, so half of them tell its pace.
        half = part[::2]
        ways = [(partial(plain, model, half), len(half)), (partial(ours, model, part), len(part))]
        for rate, (found,) in zip(rates, alternate(1, *ways), strict=True):
            rate.append(found)
    report(f"evaluation, {len(asked)} five-shot questions", "batches of 8, all new tokens", *rates, "questions/s", 2.5)


def start(models: dict[str, str], quick: bool) -> None:
    for option, what in (("--help", "--help"), ("no_such_key=1", "a config error")):
        slowest = max(statistics.median(script(name, option)[0] for _ in range(3)) for name in SCRIPTS)
        row(f"{what}, the slowest of the five scripts", "-", f"{slowest:.2f} s", "-", "≤ 1 s", slowest <= 1)
    start_up(models, quick)


def start_up(models: dict[str, str], quick: bool) -> None:
    """What a run of one row takes, as a share of a run of 1,000 rows (people, for evaluate.py).

    Measured with fewer rows where 1,000 would take minutes, and then carried on at the same pace.
    A difference of a few per cent means nothing here: each is one run.
    """
    small, dtype = f"model={models['small']}", f"dtype={fastest_dtype()}"
    data = (f"examples={ROOT / 'data/biography_real.csv'}", f"prompts={ROOT / 'data/prompts_statements.csv'}")
    stages = {
        "save_attention": (200, "dataset=texts.csv", "save_name=dump", small, dtype),
        "contrast_attention": (1000, "attn_dump_large=large", "attn_dump_small=small", "attn_diff=both"),
        "data_augmentation": (
            *(1000, "augment_type=random", "alpha=0.7", "multiply=10"),
            *("dataset=texts.csv", "save_name=variants", small),
        ),
        "train": (
            *(40, "dataset=texts.csv", "model_dir=trained", small),
            *(*precision(), "attn_implementation=eager", "trainer.num_train_epochs=1", "trainer.save_strategy=no"),
        ),
        "evaluate": (10, "dataset=texts.csv", "output_dir=answers", "choice=false", small, dtype, *data),
    }
    tagged = list(biography.read_texts(ROOT / "data/biography_synthetic.csv"))
    for name, (many, *options) in stages.items():
        seconds = []
        for count in (1, 3 if quick else many):
            texts = list(itertools.islice(itertools.cycle(tagged), count))
            write_texts("texts.csv", texts)
            if name == "contrast_attention":
                made = dumps(models, [biography.strip_tags(text) for text in texts])
                for dump, path in zip(made, ("large", "small"), strict=True):
                    attention_dump.write(dump, path)
            seconds.append(script(name, *options)[0])
        one, all_rows = seconds
        thousand = one + max(0.0, all_rows - one) * 999 / (count - 1)
        share = one / thousand
        row(
            f"{name}.py, start-up",
            f"1,000 rows: {thousand:.1f} s",
            f"1 row: {one:.1f} s",
            f"{share:.0%}",
            "≤ 10 %",
            share <= 0.1,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller inputs, fewer repeats")
    parser.add_argument("--small", default=str(ROOT / "models/smollm2-135m"), help="a model's folder")
    parser.add_argument("--large", default=str(ROOT / "models/gemma3-270m"), help="another's, with another tokenizer")
    parser.add_argument("--long-text", nargs=4, metavar=("MODEL", "TOKENS", "WAY", "DTYPE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    # As in the scripts; where both ways run in this process, the plain one has them as well.
    use_huge_pages()
    if arguments.long_text:
        folder, length, way, dtype = arguments.long_text
        long_text(folder, int(length), way, dtype)
        return
    models = {"small": arguments.small, "large": arguments.large}
    started = time.monotonic()
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    rates = ", ".join(f"{rate:,.0f} GFLOP/s in {dtype}" for dtype, rate in product_rates().items())
    print(f"Products of 2,048 x 576 by 576 x 1,536: {rates}; so the models run in {fastest_dtype()}\n")
    print("| stage | the plain way | ours | ratio of medians (spread) | to reach | verdict |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for stage in (
            numpy_half,
            flat_memory,
            flat_stages,
            short_texts,
            long_texts,
            growth,
            evaluation,
            training,
            start,
        ):
            stage(models, arguments.quick)
    print("\nThe mean loss of each tenth of a training run:\n", *CURVES, sep="\n")
    print(f"\n{(time.monotonic() - started) / 60:.1f} minutes")


def processor() -> str:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
