"""Cross-tokenizer differences the plain way: a Python loop over characters."""

import numpy as np

from utils.attention_dump import Dump


def difference(large: Dump, small: Dump) -> list[np.ndarray]:
    """float32 [n] for each text, on the tokens of `small`. Every character is taken to lie in some token of `large`."""
    differences = []
    for of_large, of_small in zip(large.rows, small.rows, strict=True):
        characters = [0.0] * max(of_large.offsets.max(), of_small.offsets.max())
        for value, (start, end) in zip(of_large.values.tolist(), of_large.offsets.tolist(), strict=True):
            for position in range(start, end):
                characters[position] = value
        values = []
        for value, (start, end) in zip(of_small.values.tolist(), of_small.offsets.tolist(), strict=True):
            total = 0.0
            for position in range(start, end):
                total += characters[position]
            values.append(total / (end - start) - value)
        differences.append(np.array(values, dtype=np.float32))
    return differences
