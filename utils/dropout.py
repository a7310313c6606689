"""Token-dropout: weights into ranks, ranks into keep-probabilities, keep-probabilities into variants of a text.

Many texts go through numpy at once: their tokens lie end to end, and text i's are those from bounds[i] to
bounds[i + 1] (bounds: int [texts + 1]).
"""

import itertools
import re

import numpy as np

from utils import spans

NEVER_DROPPED = (",", ".")

SPACE = ord(" ")

# By code point; beyond the ideographic space Unicode has no white space.
IS_WHITE_SPACE = np.array([chr(code).isspace() for code in range(0x3002)])


def ranks(weights: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """int64 [n]: within each text 0 for the largest of the float32 weights; equal weights in the order of the text."""
    # numpy sorts whole numbers many times as fast as it finds a stable order of floats. A float's bits, read as a
    # whole number, sort as the float does once the lower bits of the negative ones are turned round; subtracting from
    # 0 puts the largest first and leaves no -0. Below these bits stands the token's number, for ties.
    bits = np.subtract(0, weights, dtype=np.float32).view(np.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    keys = (bits.astype(np.int64) << 32) | np.arange(len(weights))
    rank = np.empty(len(weights), dtype=np.int64)
    counts = np.diff(bounds)
    # Texts with as many tokens are the rows of one array.
    for count in set(counts.tolist()):
        of_texts = keys[bounds[:-1][counts == count][:, None] + np.arange(count)]
        of_texts.sort(axis=1)
        rank[of_texts & 0xFFFFFFFF] = np.arange(count)
    return rank


def keep_by_rank(weights: np.ndarray, bounds: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """float64 [n]: 1 - p(r), where the token of rank r is dropped with p(r) = alpha * (1 - exp(-beta * r)).

    The paper's rule: rank 0, the clue most worth keeping, is never dropped; the tail is, with probability alpha.
    """
    return 1.0 - alpha * (1.0 - np.exp(-beta * ranks(weights, bounds)))


def keep_all_alike(count: int, alpha: float) -> np.ndarray:
    """float64 [n]: every token is *kept* with probability alpha (`augment_type=random`)."""
    return np.full(count, alpha, dtype=np.float64)


def variants(
    texts: list[str],
    offsets: np.ndarray,
    bounds: np.ndarray,
    keep: np.ndarray,
    count: int,
    generator: np.random.Generator,
) -> list[str]:
    """`count` independently drawn copies of each text, in the texts' order, with a dropped token's characters blank.

    offsets: int [n, 2], each token's characters in its text, end exclusive; keep: [n], its probability to stay. The
    tokens "," and "." always stay. A variant is as long as its text: what is dropped becomes spaces.
    """
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32)
    ends = list(itertools.accumulate(map(len, texts)))
    begins = [0, *ends[:-1]]
    offsets = offsets + np.repeat(begins, np.diff(bounds))[:, None]
    keep = np.where(always_stay(codes, offsets), 1.0, keep)
    # A character goes with one token; with none (number n) it stays. The few that lie in several are seen to apart.
    character, token = spans.characters(offsets)
    owner = np.full(len(codes), len(keep))
    owner[character] = token
    shared = owner[character] != token
    shared_character, shared_token = character[shared], token[shared]
    stays = np.ones(len(keep) + 1, dtype=np.uint32)
    above_space = codes - SPACE  # a tab or a newline wraps around below 0, and back when the space is added
    drawn = []
    for _ in range(count):
        stays[:-1] = generator.random(len(keep)) < keep
        blanked = stays[owner]
        blanked *= above_space  # several times as fast as np.where
        blanked += SPACE
        blanked[shared_character[stays[shared_token] == 0]] = SPACE
        drawn.append(blanked.tobytes().decode("utf-32-le"))
    return [variant[begin:end] for begin, end in zip(begins, ends, strict=True) for variant in drawn]


def always_stay(codes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """bool [n]: which tokens are one of NEVER_DROPPED, white space around it aside (codes: the text's code points)."""
    is_letter = ~IS_WHITE_SPACE[np.minimum(codes, len(IS_WHITE_SPACE) - 1)]
    is_mark = np.logical_or.reduce([codes == ord(mark) for mark in NEVER_DROPPED])
    return (spans.sums(is_letter, offsets) == 1) & (spans.sums(is_mark, offsets) == 1)


def collapse(text: str) -> str:
    """Beyond the paper: one space in place of a run of spaces."""
    return re.sub(" {2,}", " ", text)
