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
    rows = []
    for number, (of_large, of_small) in enumerate(zip(large.rows, small.rows, strict=True), start=1):
        if of_large.text_sha256 != of_small.text_sha256:
            raise InputError(f"the dumps are of other texts: row {number} of {large.model} and of {small.model}")
        if same_tokenizer and not np.array_equal(of_large.offsets, of_small.offsets):
            raise InputError(f"row {number} was tokenized differently for {large.model} and for {small.model}")
        onto = of_large if target == "large" else of_small
        values = combine(
            project(of_large.values, of_large.offsets, onto.offsets),
            project(of_small.values, of_small.offsets, onto.offsets),
            operation,
        )
        rows.append(Row(onto.text_sha256, values, onto.offsets))
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
    # Both sums over spans are differences of running sums, so nothing here loops over characters.
    starts, ends = np.zeros((2, length + 1)), np.zeros((2, length + 1))
    np.add.at(starts, (slice(None), offsets[:, 0]), np.stack([values, np.ones_like(values)]))
    np.add.at(ends, (slice(None), offsets[:, 1]), np.stack([values, np.ones_like(values)]))
    laid, tokens = np.cumsum(starts - ends, axis=1)[:, :-1]
    covered = np.rint(tokens) > 0
    of_character = np.where(covered, laid / np.maximum(tokens, 1), 0.0)
    running = np.zeros((2, length + 1))
    np.cumsum([of_character, covered], axis=1, out=running[:, 1:])
    total, count = running[:, target_offsets[:, 1]] - running[:, target_offsets[:, 0]]
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0).astype(np.float32)


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
