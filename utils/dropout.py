"""Token-dropout: weights into ranks, ranks into keep-probabilities, keep-probabilities into variants of a text."""

import itertools
import re

import numpy as np

NEVER_DROPPED = (",", ".")

# Beyond the ideographic space Unicode has none.
WHITE_SPACE = [code for code in range(0x3001) if chr(code).isspace()]


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


def variants(
    texts: list[str], offsets: list[np.ndarray], keep: list[np.ndarray], count: int, generator: np.random.Generator
) -> list[str]:
    """`count` independently drawn copies of each text, in the texts' order, with a dropped token's characters blank.

    For each text, offsets: int [n, 2], its tokens' characters, end exclusive; keep: [n], each token's probability to
    stay. The tokens "," and "." always stay. A variant is as long as its text: what is dropped becomes spaces.
    """
    # The texts are laid end to end, so that numpy is called once for all of them.
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32)
    ends = list(itertools.accumulate(map(len, texts)))
    begins = [0, *ends[:-1]]
    spans = np.concatenate(offsets) + np.repeat(begins, [len(of_text) for of_text in offsets])[:, None]
    probability = np.where(always_stay(codes, spans), 1.0, np.concatenate(keep))
    dropped = generator.random((count, len(probability))) >= probability
    lengths = spans[:, 1] - spans[:, 0]
    token = np.repeat(np.arange(len(spans)), lengths)
    # The characters of all tokens, one token after the other: token[i] covers character[i].
    character = np.arange(len(token)) + np.repeat(spans[:, 0] - (np.cumsum(lengths) - lengths), lengths)
    drawn = []
    for of_variant in dropped:
        blanked = codes.copy()
        blanked[character[of_variant[token]]] = ord(" ")
        drawn.append(blanked.tobytes().decode("utf-32-le"))
    return [variant[begin:end] for begin, end in zip(begins, ends, strict=True) for variant in drawn]


def always_stay(codes: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """bool [n]: which tokens are one of NEVER_DROPPED, white space around it aside (codes: the text's code points)."""
    is_letter, is_mark = (
        np.concatenate([[0], np.cumsum(np.isin(codes, among, invert=invert))])
        for among, invert in ((WHITE_SPACE, True), ([ord(mark) for mark in NEVER_DROPPED], False))
    )
    first, last = spans.T
    return (is_letter[last] - is_letter[first] == 1) & (is_mark[last] - is_mark[first] == 1)


def collapse(text: str) -> str:
    """Beyond the paper: one space in place of a run of spaces."""
    return re.sub(" {2,}", " ", text)
