"""Token-dropout: weights into ranks, ranks into keep-probabilities, keep-probabilities into variants of a text."""

import re

import numpy as np

NEVER_DROPPED = (",", ".")


def ranks(weights: np.ndarray) -> np.ndarray:
    """int [n]: 0 for the largest weight; equal weights in the order of the text."""
    order = np.argsort(-weights, kind="stable")
    rank = np.empty(len(weights), dtype=np.int64)
    rank[order] = np.arange(len(weights))
    return rank


def keep_by_rank(weights: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """float64 [n]: 1 - p(r), where the token of rank r is dropped with p(r) = alpha * (1 - exp(-beta * r)).

    The paper's rule: rank 0, the clue most worth keeping, is never dropped; the tail is, with probability alpha.
    """
    return 1.0 - alpha * (1.0 - np.exp(-beta * ranks(weights)))


def keep_all_alike(count: int, alpha: float) -> np.ndarray:
    """float64 [n]: every token is *kept* with probability alpha (`augment_type=random`)."""
    return np.full(count, alpha, dtype=np.float64)


def variants(text: str, offsets: np.ndarray, keep: np.ndarray, count: int, generator: np.random.Generator) -> list[str]:
    """`count` independently drawn copies of `text` in which a dropped token's characters are spaces.

    offsets: int [n, 2], characters of `text`; keep: [n], each token's probability to stay. The tokens "," and
    "." always stay. Each variant is as long as `text`.
    """
    keep = np.where([text[start:end].strip() in NEVER_DROPPED for start, end in offsets], 1.0, keep)
    dropped = generator.random((count, len(keep))) >= keep
    lengths = offsets[:, 1] - offsets[:, 0]
    token_of = np.repeat(np.arange(len(keep)), lengths)
    # The characters of all tokens, one token after the other: token_of[i] covers character[i].
    character = np.arange(len(token_of)) + np.repeat(offsets[:, 0] - (np.cumsum(lengths) - lengths), lengths)
    codes = np.tile(np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32), (count, 1))
    variant, covered = np.nonzero(dropped[:, token_of])
    codes[variant, character[covered]] = ord(" ")
    return [row.tobytes().decode("utf-32-le") for row in codes]


def collapse(text: str) -> str:
    """Beyond the paper: one space in place of a run of spaces."""
    return re.sub(" {2,}", " ", text)
