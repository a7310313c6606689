"""The plain ways that the benchmarks measure against give the same answers as ours; never how fast they are."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.plain import contrast as plain_contrast
from benchmarks.plain import dropout as plain_dropout
from benchmarks.plain import evaluation as plain_evaluation
from benchmarks.plain import extraction as plain_extraction
from tests import tiny
from tests.conftest import ROOT
from tests.test_received_attention import RELATIVE, random_texts
from utils import answers, contrast, dropout
from utils.attention_dump import Dump, Row
from utils.received_attention import ReceivedAttention


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_extraction(architecture):
    model, texts = tiny.model(architecture), random_texts([30, 7, 2])
    plain = plain_extraction.received_attention(model, texts)
    for defined, found in zip(plain, ReceivedAttention(model).texts(texts), strict=True):
        np.testing.assert_allclose(found, defined, rtol=RELATIVE, atol=1e-9)


def random_dump(name: str, cuts: list[list[int]], seed: int) -> Dump:
    generator = np.random.default_rng(seed)
    offsets = [np.array([cut[:-1], cut[1:]], dtype=np.int32).T for cut in cuts]
    rows = [Row("text", generator.random(len(spans), dtype=np.float32), spans) for spans in offsets]
    return Dump.of(name, name, {}, rows)


def test_contrast():
    large = random_dump("large", [[0, 3, 4, 10], [0, 5]], 0)
    small = random_dump("small", [[0, 1, 7, 9, 10], [0, 2, 5]], 1)
    plain = plain_contrast.difference(large, small)
    for defined, row in zip(plain, contrast.contrast(large, small).rows, strict=True):
        np.testing.assert_allclose(row.values, defined, rtol=1e-5, atol=1e-7)


def test_dropout():
    """The draws differ, so the frequencies are compared: each token's, over many variants of one text."""
    text = "one two, three four five six seven."
    ends = np.array([3, 7, 8, 14, 19, 24, 28, 34, 35])
    offsets = np.stack([np.r_[0, ends[:-1]], ends], axis=1)
    weights = np.random.default_rng(0).random(len(ends), dtype=np.float32)
    bounds = np.array([0, len(ends)])
    keep = dropout.keep_by_rank(weights, bounds, 0.9, 0.3)
    count = 4000
    random.seed(0)
    ours, _ = dropout.variants([text], offsets, bounds, keep, count, np.random.default_rng(0))
    plain = plain_dropout.variants(text, offsets, weights, 0.9, 0.3, count)
    kept = [
        [np.mean([variant[start:end] == text[start:end] for variant in drawn]) for start, end in offsets]
        for drawn in (ours, plain)
    ]
    # Five standard deviations of the difference of two such frequencies are at most 5 * sqrt(0.5 / count).
    np.testing.assert_allclose(kept[0], kept[1], atol=5 * np.sqrt(0.5 / count))


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_evaluation(architecture):
    tokenizer = tiny.tokenizer()
    model = tiny.model(architecture, len(tokenizer))
    prompts = ["The city is", "The birth date of Ada is", "The employer of Patricia Gray was", "A"]
    golds = ["Odense", "10 December 1815", "IBM", "B"]
    plain = plain_evaluation.answers(model, tokenizer, prompts, golds, 10, batch_size=3)
    (found,) = answers.greedy_answers(model, tokenizer, prompts, golds, 10, batch_tokens=10_000)
    for index, (text, likelihood) in enumerate(plain):
        assert found[index][0] == text
        # Some ten float32 logits of magnitude 10 each.
        assert found[index][1] == pytest.approx(likelihood, abs=1e-3)


@pytest.mark.slow
def test_the_quick_run_compares_the_answers_and_prints_a_row_for_each_figure(tiny_model, tmp_path):
    """On tiny models, whose speeds mean nothing."""
    other = tiny.save(tmp_path / "tiny-gemma3", "gemma3", vocabulary=400)
    command = [sys.executable, "-m", "benchmarks.bench", "--quick", "--small", str(tiny_model), "--large", str(other)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert len(table) == 24 and all(len(cells) == 4 for cells in table), done.stdout
    for word in ("contrast", "token-dropout", "extraction", "training", "evaluation", "--help"):
        assert any(word in cells[0] for cells in table), word


@pytest.mark.slow
def test_what_a_gpu_is_to_show_can_be_rehearsed_without_one(tmp_path):
    environment = os.environ | {"REHEARSE_GPU": "1"}
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/test_gpu.py"]
    done = subprocess.run(tests, cwd=ROOT, env=environment, capture_output=True, text=True)
    # A processor has nothing to wait for.
    assert done.returncode == 0 and " passed, 1 skipped" in done.stdout, done.stdout
    figures = tmp_path / "figures.json"
    command = [sys.executable, "benchmarks/gpu.py", str(figures), "--tiny"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text())
    # Liger's kernels need a GPU.
    failed = [name for name, one in found.items() if str(one["value"]).startswith("failed")]
    assert failed == ["training, bfloat16, Liger's kernels"]
    assert f"| {list(found)[-1]} | " in done.stdout


def test_without_a_gpu_its_benchmark_says_so(tmp_path):
    command = [sys.executable, "benchmarks/gpu.py", str(tmp_path / "figures.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "skipped: no GPU here (--tiny rehearses" in done.stdout
    assert not list(tmp_path.iterdir())
