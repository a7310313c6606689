"""Cross-tokenizer differences the plain way: a Python loop over characters."""

import numpy as np

from utils.attention_dump import Dump


def difference(large: Dump, small: Dump) -> list[np.ndarray]:
    """float32 [n] for each text, on the tokens of `small`. Every character is taken to lie in some token of `large`."""
    differences = []
    for large_row, small_row in zip(large.rows, small.rows, strict=True):
        characters = [0.0] * max(large_row.offsets.max(), small_row.offsets.max())
        for value, (start, end) in zip(large_row.values.tolist(), large_row.offsets.tolist(), strict=True):
            for position in range(start, end):
                characters[position] = value
        values = []
        for value, (start, end) in zip(small_row.values.tolist(), small_row.offsets.tolist(), strict=True):
            total = 0.0
            for position in range(start, end):
                total += characters[position]
            values.append(total / (end - start) - value)
        differences.append(np.array(values, dtype=np.float32))
    return differences
