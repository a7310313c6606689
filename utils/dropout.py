"""Token-dropout: weights into ranks, ranks into keep-probabilities, keep-probabilities into variants of a text.

Many texts go through numpy at once: their tokens lie end to end, and text i's are those from bounds[i] to
bounds[i + 1] (bounds: int [texts + 1]).
"""

import itertools
import re
import unicodedata

import numpy as np

from utils import spans

NEVER_DROPPED = (",", ".")

SPACE = ord(" ")

# By code point; beyond the ideographic space Unicode has no white space.
IS_WHITE_SPACE = np.array([chr(code).isspace() for code in range(0x3002)])


def ranks(weights: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """int64 [n]: within each text 0 for the largest of the float32 weights; equal weights in the order of the text."""
    counts = np.diff(bounds)
    order = np.lexsort((-weights, np.repeat(np.arange(len(counts)), counts)))
    rank = np.empty(len(weights), dtype=np.int64)
    rank[order] = np.arange(len(weights)) - np.repeat(bounds[:-1], counts)
    return rank


def keep_by_rank(weights: np.ndarray, bounds: np.ndarray, alpha: float, beta: float, unit: str = "token") -> np.ndarray:
    """float64 [n]: 1 - p(r), where the token of rank r is dropped with p(r) = alpha * (1 - exp(-beta * r)).

    The paper's rule: rank 0, the clue most worth keeping, is never dropped; the tail is, with probability alpha.

    unit: "percent" (beyond the paper) takes in place of r how many per cent of the text's tokens rank before it,
    100 * r / n for a text of n tokens: p(r) = alpha * (1 - exp(-beta * 100 * r / n)). Texts of any length then lose the
    same share at the same beta, and texts of 100 tokens what they lose by "token". By "token" a text of n tokens loses
    alpha * (1 - (1 - exp(-beta * n)) / (n * (1 - exp(-beta)))) of them on average, which nears alpha as n grows.
    """
    rank = ranks(weights, bounds)
    if unit == "percent":
        counts = np.diff(bounds)
        rank = rank * (100 / np.repeat(counts, counts))
    return 1.0 - alpha * (1.0 - np.exp(-beta * rank))


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
    delete: bool = False,
) -> tuple[list[str], int]:
    """`count` independently drawn copies of each text, in the texts' order, and how many tokens were dropped in all.

    offsets: int [n, 2], each token's characters in its text, end exclusive; keep: [n], its probability to stay. The
    tokens "," and "." always stay. A dropped token's characters become spaces, so a variant is as long as its text.

    delete: they go (the paper), and what remains is the kept tokens' characters, in order. White space goes or stays
    with the character that follows it (at the text's end, with the one before it), whether it is part of that one's
    token, a token by itself or in no token: where a word goes, its neighbours stand as far apart as if it had never
    been there, and what stays keeps the white space that it had before it. Two exceptions: one white space stays where
    letters or digits of two words would run together, as where a word loses its first token alone; and where the text's
    first character goes, the variant begins without white space. Of a text of which nothing is left, one space is.
    """
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32)
    edges = np.array([0, *itertools.accumulate(map(len, texts))])
    offsets = offsets + np.repeat(edges[:-1], np.diff(bounds))[:, None]
    keep = np.where(always_stay(codes, offsets), 1.0, keep)
    # A character goes with one token; with none (number n) it stays. The few that lie in several are seen to apart.
    character, token = spans.characters(offsets)
    owner = np.full(len(codes), len(keep))
    owner[character] = token
    shared = owner[character] != token
    shared_character, shared_token = character[shared], token[shared]
    stays = np.ones(len(keep) + 1, dtype=np.uint32)
    above_space = codes - SPACE  # a tab or a newline wraps around below 0, and back when the space is added
    drawn, dropped = [], 0
    for _ in range(count):
        stays[:-1] = generator.random(len(keep)) < keep
        dropped += int((stays == 0).sum())
        kept = stays[owner]
        kept[shared_character[stays[shared_token] == 0]] = 0
        if delete:
            drawn.append(closed_up(codes, edges, kept > 0))
        else:
            kept *= above_space  # several times as fast as np.where
            kept += SPACE
            drawn.append(cut(kept, edges))
    return [variant for text_variants in zip(*drawn, strict=True) for variant in text_variants], dropped


def closed_up(codes: np.ndarray, edges: np.ndarray, kept: np.ndarray) -> list[str]:
    """The texts from each edge to the next without the characters that are not kept (bool [characters]), and without
    the white space that goes with these (see `variants`)."""
    place = np.arange(len(codes))
    is_space = white_space(codes)
    begin, end = (np.repeat(side, np.diff(edges)) for side in (edges[:-1], edges[1:]))
    # The next character that is no white space, or at a text's end the last one.
    following = np.minimum.accumulate(np.where(is_space, len(codes), place)[::-1])[::-1]
    before = np.maximum.accumulate(np.where(is_space, -1, place))
    kept = kept[np.where(following < end, following, np.where(before >= begin, before, place))]

    # What would run together: letters or digits of one text, with white space between them before, and none now.
    remaining = np.flatnonzero(kept & in_words(codes))
    left, right = remaining[:-1], remaining[1:]
    space = np.maximum.accumulate(np.where(is_space, place, -1))[right]
    count = np.cumsum(kept)
    runs_together = (space > left) & (begin[left] == begin[right]) & (count[left] + 1 == count[right])
    kept[space[runs_together]] = True

    texts = cut(codes[kept], np.append(0, np.cumsum(kept))[edges])
    begins = [kept[edge : edge + 1].all() for edge in edges[:-1]]
    return [(text if as_before else text.lstrip()) or " " for text, as_before in zip(texts, begins, strict=True)]


def cut(codes: np.ndarray, edges: np.ndarray) -> list[str]:
    """Code points into texts, from each edge to the next."""
    joined = codes.tobytes().decode("utf-32-le")
    return [joined[begin:end] for begin, end in itertools.pairwise(edges.tolist())]


def in_words(codes: np.ndarray) -> np.ndarray:
    """bool [characters]: letters, the marks on them, and digits."""
    found, places = np.unique(codes, return_inverse=True)
    return np.array([unicodedata.category(chr(code))[0] in "LMN" for code in found], dtype=bool)[places]


def white_space(codes: np.ndarray) -> np.ndarray:
    """bool [characters]."""
    return IS_WHITE_SPACE[np.minimum(codes, len(IS_WHITE_SPACE) - 1)]


def always_stay(codes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """bool [n]: which tokens are one of NEVER_DROPPED, white space around it aside (codes: the text's code points)."""
    is_mark = np.logical_or.reduce([codes == ord(mark) for mark in NEVER_DROPPED])
    return (spans.sums(~white_space(codes), offsets) == 1) & (spans.sums(is_mark, offsets) == 1)


def collapse(text: str) -> str:
    """Beyond the paper and the authors' code: one space in place of a run of spaces."""
    return re.sub(" {2,}", " ", text)
