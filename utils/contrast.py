"""Two dumps of the same texts into the dump of their difference, token by token.

The paper contrasts two models with one tokenizer. Projecting one tokenizer's tokens onto another's, and the
operation `log_ratio`, go beyond it.
"""

import numpy as np

from utils.attention_dump import Dump, Row
from utils.errors import InputError
from utils.tokens import Encoded

# A dump's dtype changes its values only by rounding, so dumps of different dtypes may be contrasted.
MAY_DIFFER = ("dtype",)

# Texts projected at a time: enough for numpy's calls to cost nothing, few enough for their sums to stay exact.
CHUNK = 1000


def contrast(large: Dump, small: Dump, operation: str = "difference", target: str = "small") -> Dump:
    """The dump of `operation` applied to what `large` and `small` say of each token.

    `target` names the dump ("small" or "large") whose tokens the result bears where the tokenizers differ;
    where they are the same, nothing is projected. Raises InputError, naming both sides, where texts, settings or
    (under one tokenizer) tokens are not the same.
    """
    for key in sorted({*large.settings, *small.settings} - set(MAY_DIFFER)):
        if large.settings.get(key) != small.settings.get(key):
            raise InputError(
                f"the dumps were made with other settings: {key} is {large.settings.get(key)} "
                f"for {large.model} and {small.settings.get(key)} for {small.model}"
            )
    if len(large.rows) != len(small.rows):
        raise InputError(
            f"the dumps are of other texts: {large.model} has {len(large.rows)} rows, "
            f"{small.model} has {len(small.rows)}"
        )
    same_tokenizer = large.tokenizer == small.tokenizer
    for number, (of_large, of_small) in enumerate(zip(large.rows, small.rows, strict=True), start=1):
        if of_large.text_sha256 != of_small.text_sha256:
            raise InputError(f"the dumps are of other texts: row {number} of {large.model} and of {small.model}")
        if same_tokenizer and not np.array_equal(of_large.offsets, of_small.offsets):
            raise InputError(f"row {number} was tokenized differently for {large.model} and for {small.model}")
    onto = (large if target == "large" else small).rows
    rows = []
    for first in range(0, len(onto), CHUNK):
        chunk = slice(first, first + CHUNK)
        of_large = project_rows(large.rows[chunk], onto[chunk])
        of_small = project_rows(small.rows[chunk], onto[chunk])
        combined = combine(of_large, of_small, operation)
        last = np.cumsum([len(row.values) for row in onto[chunk]])
        for row, end in zip(onto[chunk], last.tolist(), strict=True):
            rows.append(Row(row.text_sha256, combined[end - len(row.values) : end].copy(), row.offsets))
    settings = {**large.settings, "dtype": f"{large.settings.get('dtype')}, {small.settings.get('dtype')}"}
    settings["operation"] = operation
    tokenizer = large.tokenizer if target == "large" else small.tokenizer
    symbol = {"difference": "-", "log_ratio": "/"}[operation]
    return Dump(f"{large.model} {symbol} {small.model}", tokenizer, settings, rows)


def combine(large: np.ndarray, small: np.ndarray, operation: str) -> np.ndarray:
    """float32 [n]: `difference` is large - small (the paper's d); `log_ratio` is log(large / small), and 0
    where a token received nothing from one of them (the last one has no follower, so it received nothing)."""
    if operation == "difference":
        return large - small
    both = (large > 0) & (small > 0)
    return np.log(np.where(both, large, 1.0) / np.where(both, small, 1.0)).astype(np.float32)


def project_rows(rows: list[Row], onto: list[Row]) -> np.ndarray:
    """The values of `rows` on the tokens of `onto`, the same texts in the same order: float32 [all their tokens].

    The texts are laid end to end, so that numpy is called once for all of them; no token reaches into another text.
    """
    values = np.concatenate([row.values for row in rows])
    if all(row.offsets is target.offsets for row, target in zip(rows, onto, strict=True)):
        return values
    offsets = [np.concatenate([row.offsets for row in side]) for side in (rows, onto)]
    counts = [np.array([len(row.offsets) for row in side]) for side in (rows, onto)]
    lengths = np.maximum(*(last_characters(*side) for side in zip(offsets, counts, strict=True)))
    begins = np.cumsum(lengths) - lengths
    source, target = (of_all + np.repeat(begins, count)[:, None] for of_all, count in zip(offsets, counts, strict=True))
    return project(values, source, target)


def last_characters(offsets: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """For each text, where its tokens' last character ends (or beyond, for a text without tokens)."""
    # reduceat takes one element for an empty segment; the 0 is there for one at the very end.
    return np.maximum.reduceat(np.append(offsets[:, 1], 0), np.cumsum(counts) - counts).astype(np.int64)


def project(values: np.ndarray, offsets: np.ndarray, target_offsets: np.ndarray) -> np.ndarray:
    """What one tokenizer's tokens hold, read by another's: float32 [m] from float32 [n].

    Each of the n tokens lays its value on every character that it covers (offsets int [n, 2]); where tokens
    overlap, as those that share an emoji do, the character has their mean. Each of the m target tokens takes the
    mean over its characters (target_offsets int [m, 2]), passing over those that no token covered; with none
    covered it gets 0. Equal offsets give the values back as they are.
    """
    if np.array_equal(offsets, target_offsets):
        return values
    length = int(max(offsets.max(initial=0), target_offsets.max(initial=0)))
    # Every sum over a span is a difference of two running sums, so nothing here loops over characters.
    laid = np.cumsum(steps(offsets, length, values))[:-1]
    tokens = np.cumsum(steps(offsets, length))[:-1]
    of_character = np.divide(laid, tokens, out=np.zeros(length), where=tokens > 0)
    running = np.concatenate([[0.0], np.cumsum(of_character)])
    covered = np.concatenate([[0], np.cumsum(tokens > 0)])
    total = running[target_offsets[:, 1]] - running[target_offsets[:, 0]]
    count = covered[target_offsets[:, 1]] - covered[target_offsets[:, 0]]
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0).astype(np.float32)


def steps(offsets: np.ndarray, length: int, values: np.ndarray | None = None) -> np.ndarray:
    """[length + 1]: up by a token's value (1 without values) where it begins, down by as much where it ends."""
    up, down = (np.bincount(offsets[:, side], values, minlength=length + 1) for side in (0, 1))
    return up - down


def weights_of(weights: Dump | list[np.ndarray], row: int, encoded: Encoded) -> np.ndarray:
    """float32 [n]: what ranks the n tokens of text number `row` (from 0), as the training tokenizer cut it.

    Weights of another tokenizer are projected. A bare list must hold one value a token, with or without the special
    tokens that the tokenizer adds; InputError otherwise.
    """
    if isinstance(weights, Dump):
        return project(weights.rows[row].values, weights.rows[row].offsets, encoded.offsets)
    values = weights[row]
    if len(values) == len(encoded.offsets):
        return values
    if len(values) == len(encoded.input_ids):
        return values[encoded.positions]
    raise InputError(
        f"attn_weights: row {row + 1} has {len(values)} values, but the text has {len(encoded.offsets)} tokens "
        f"({len(encoded.input_ids)} with special ones): the weights are of another text or tokenizer"
    )
