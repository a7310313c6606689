"""Contrast across two tokenizers: ours over many rows, the plain way over fewer."""

from functools import partial

import numpy as np

from benchmarks.plain import contrast as plain_contrast
from benchmarks.timing import alternate, biographies, compare
from utils import contrast, tokens
from utils.attention_dump import Dump, Row, text_hash
from utils.tokenizer import load_tokenizer


def random_dump(model: str, texts: list[str], seed: int) -> Dump:
    """Random values on the real tokens of these texts."""
    generator = np.random.default_rng(seed)
    different = list(dict.fromkeys(texts))
    encoded = tokens.encode(load_tokenizer(model), different)
    offsets = dict(zip(different, [encoded_text.offsets for encoded_text in encoded], strict=True))
    values = [generator.random(len(offsets[text]), dtype=np.float32) for text in texts]
    rows = [Row(text_hash(text), received, offsets[text]) for text, received in zip(texts, values, strict=True)]
    return Dump.of(model, model, {}, rows)


def contrasted(models: dict[str, str], quick: bool) -> None:
    texts = biographies(5_000 if quick else 100_000)
    few = 200 if quick else 2_000
    pair = [random_dump(models[size], texts, seed) for seed, size in enumerate(("large", "small"))]
    few_pair = [Dump.of(dump.model, dump.tokenizer, {}, dump.rows[:few]) for dump in pair]
    plain = plain_contrast.difference(*few_pair)
    for text, defined, found in zip(texts, plain, contrast.contrast(*few_pair).rows, strict=False):
        # A tokenizer of bytes may cut other letters in two; the plain way knows nothing of tokens that share one.
        if text.isascii():
            np.testing.assert_allclose(found.values, defined, rtol=1e-4, atol=1e-6)
    ways = (partial(plain_contrast.difference, *few_pair), few), (partial(contrast.contrast, *pair), len(texts))
    name = f"contrast, {len(texts):,} rows, two tokenizers"
    compare(name, "loop over characters", *alternate(3, *ways), "texts/s")


STAGES = (contrasted,)
