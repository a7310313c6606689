"""Spans of characters, int [n, 2], ends exclusive: operations by numpy, so that nothing loops over characters."""

import numpy as np


def characters(spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 [k] each: the characters of all spans, one span after the other, and the number of the span of each."""
    lengths = spans[:, 1] - spans[:, 0]
    before = np.cumsum(lengths) - lengths
    character = np.arange(lengths.sum()) + np.repeat(spans[:, 0] - before, lengths)
    return character, np.repeat(np.arange(len(spans)), lengths)


def sums(values: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """int64 [n]: the sum over each span of values [characters], integers or booleans."""
    running = np.zeros(len(values) + 1, np.int64)
    running[1:] = values
    np.cumsum(running, out=running)
    return running[spans[:, 1]] - running[spans[:, 0]]
