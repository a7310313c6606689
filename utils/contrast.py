"""Two dumps of the same texts into the dump of their difference, token by token.

The paper contrasts two models with one tokenizer. Projecting one tokenizer's tokens onto another's, and the
operation `log_ratio`, go beyond it.
"""

import dataclasses

import numpy as np

from utils import spans
from utils.attention_dump import Dump
from utils.errors import InputError, printable
from utils.tokens import Encoded, concatenate

# A model's precision, and that of its weights, change a dump's values little, so such dumps may be contrasted.
MAY_DIFFER = ("dtype", "quant")

# Settings younger than some dumps, which were made so.
OLDER = {"queries": "following", "layers": None}

# Texts projected at a time: enough for numpy's calls to cost nothing, few enough for their characters to stay in the
# processor's cache.
CHUNK = 500


def contrast(large: Dump, small: Dump, operation: str = "difference", target: str = "small") -> Dump:
    """The dump of `operation` applied to what `large` and `small` say of each token.

    `target` names the dump ("small" or "large") whose tokens the result bears where the tokenizers differ;
    where they are the same, nothing is projected. Raises InputError, naming both sides, if texts, settings or
    (under one tokenizer) tokens are not the same.
    """
    large_settings, small_settings = OLDER | large.settings, OLDER | small.settings
    for dump, one, other in ((large, large_settings, small_settings), (small, small_settings, large_settings)):
        if "operation" in one and "operation" not in other:
            hint = "contrast two dumps that save_attention.py wrote"
            raise InputError(f"{shown(dump.model)} is a contrast of two models already; {hint}")
    if len(large.text_sha256) != len(small.text_sha256):
        raise InputError(
            f"the dumps are of different texts: {shown(large.model)} has {len(large.text_sha256)} rows, "
            f"{shown(small.model)} has {len(small.text_sha256)}"
        )
    if large.text_sha256 != small.text_sha256:
        pairs = enumerate(zip(large.text_sha256, small.text_sha256, strict=True), start=1)
        number = next(number for number, (one, other) in pairs if one != other)
        raise InputError(
            f"the dumps are of different texts: row {number} of {shown(large.model)} and of {shown(small.model)}"
        )
    for key in sorted({*large_settings, *small_settings} - set(MAY_DIFFER)):
        if large_settings.get(key) != small_settings.get(key):
            raise InputError(
                f"the dumps were made with different settings: {shown(key, 30)} is "
                f"{shown(large_settings.get(key), 30)} for {shown(large.model)} and "
                f"{shown(small_settings.get(key), 30)} for {shown(small.model)}"
            )
    if large.tokenizer == small.tokenizer:
        check_same_tokens(large, small)
    onto = large if target == "large" else small
    values = np.empty(len(onto.values), np.float32)
    for first in range(0, len(onto.text_sha256), CHUNK):
        texts = slice(first, first + CHUNK + 1)
        sides = (projected(dump, onto, texts) for dump in (large, small))
        values[token_span(onto, texts)] = combine(*sides, operation)
        large.let_go()
        small.let_go()
    dtypes = f"{large_settings.get('dtype')}, {small_settings.get('dtype')}"
    settings = large_settings | {"dtype": dtypes, "operation": operation}
    quants = [side.get("quant") for side in (large_settings, small_settings)]
    if any(quants):
        settings["quant"] = quants
    symbol = {"difference": "-", "log_ratio": "/"}[operation]
    return dataclasses.replace(onto, model=f"{large.model} {symbol} {small.model}", settings=settings, values=values)


def check_same_tokens(large: Dump, small: Dump) -> None:
    pieces = zip(large.pieces(), small.pieces(), strict=True)
    if np.array_equal(large.bounds, small.bounds) and all(
        np.array_equal(large.offsets[piece], small.offsets[piece]) for piece, _ in pieces
    ):
        return
    for number, (large_row, small_row) in enumerate(zip(large.rows, small.rows, strict=True), start=1):
        if not np.array_equal(large_row.offsets, small_row.offsets):
            both = f"{shown(large.model)} and for {shown(small.model)}"
            raise InputError(f"row {number} was tokenized differently for {both}")


def shown(said: object, most: int = 60) -> str:
    """What a dump says, short enough for a message."""
    return printable(str(said), most)


def token_span(dump: Dump, texts: slice) -> slice:
    """Where the tokens of these texts lie; texts: a slice of the dump's bounds."""
    bounds = dump.bounds[texts]
    return slice(bounds[0], bounds[-1])


def part(dump: Dump, texts: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """These texts' values, offsets and bounds, from 0; texts: a slice of the dump's bounds."""
    tokens, bounds = token_span(dump, texts), dump.bounds[texts]
    return dump.values[tokens], dump.offsets[tokens], bounds - bounds[0]


def projected(dump: Dump, onto: Dump, texts: slice) -> np.ndarray:
    """float32 [tokens of `onto` in these texts]: the values of `dump` on these tokens; texts: a slice of the bounds."""
    values, offsets, bounds = part(dump, texts)
    if dump is onto:
        return values
    return project_texts(values, offsets, bounds, *part(onto, texts)[1:])


def combine(large: np.ndarray, small: np.ndarray, operation: str) -> np.ndarray:
    """float32 [n]: `difference` is large - small (the paper's d); `log_ratio` is log(large / small), and 0
    where a token received nothing from one of them (the last one has no follower, so it received nothing)."""
    if operation == "difference":
        return large - small
    both = (large > 0) & (small > 0)
    # Not the log of the quotient: it can exceed float32, and would not be the other quotient's with the sign turned.
    log_large, log_small = (np.log(np.where(both, side, 1.0), dtype=np.float64) for side in (large, small))
    return (log_large - log_small).astype(np.float32)


def project_texts(
    values: np.ndarray,
    offsets: np.ndarray,
    bounds: np.ndarray,
    target_offsets: np.ndarray,
    target_bounds: np.ndarray,
) -> np.ndarray:
    """`project` for each of many texts, their tokens concatenated (bounds as in a Dump): float32 [target tokens]."""
    found = np.empty(len(target_offsets), np.float32)
    for first in range(0, len(bounds) - 1, CHUNK):
        cuts = [side[first : first + CHUNK + 1] for side in (bounds, target_bounds)]
        source_tokens, target_tokens = (slice(cut[0], cut[-1]) for cut in cuts)
        sides = offsets[source_tokens], target_offsets[target_tokens]
        if not np.array_equal(*sides):
            # The texts are concatenated as well; no token reaches into another text.
            lengths = np.maximum(*(last_characters(*side) for side in zip(sides, cuts, strict=True)))
            begins = np.cumsum(lengths) - lengths
            sides = tuple(
                (side.ravel() + np.repeat(begins, 2 * np.diff(cut))).reshape(-1, 2)
                for side, cut in zip(sides, cuts, strict=True)
            )
        found[target_tokens] = project(values[source_tokens], *sides)
    return found


def last_characters(offsets: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """For each text, where its tokens' last character ends (or beyond, for a text without tokens)."""
    # reduceat takes one element for an empty segment; the 0 is there for one at the very end.
    return np.maximum.reduceat(np.append(offsets[:, 1], 0), bounds[:-1] - bounds[0]).astype(np.int64)


def project(values: np.ndarray, offsets: np.ndarray, target_offsets: np.ndarray) -> np.ndarray:
    """What one tokenizer's tokens hold, read by another's: float32 [m] from float32 [n].

    Each of the n tokens lays its value on every character that it covers (offsets int [n, 2]); where tokens
    overlap, as those that share an emoji do, the character has their mean. Each of the m target tokens takes the
    mean over its characters (target_offsets int [m, 2]), passing over those that no token covered; with none
    covered it gets 0. Equal offsets give the values back as they are.
    """
    if np.array_equal(offsets, target_offsets):
        return values
    length = int(max(1, offsets.max(initial=0), target_offsets.max(initial=0)))
    # In fixed point: whole numbers add up exactly, however many they are, and numpy sums them six times as fast.
    scale = 2.0 ** np.floor(62 - np.log2(length * (float(np.abs(values).max(initial=0)) or 1.0)))
    held, covered = on_characters(np.rint(values.astype(np.float64) * scale).astype(np.int64), offsets, length)
    total = spans.sums(held, target_offsets)
    count = target_offsets[:, 1] - target_offsets[:, 0] if covered is None else spans.sums(covered, target_offsets)
    return (total / (scale * np.maximum(count, 1))).astype(np.float32)


def on_characters(values: np.ndarray, offsets: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray | None]:
    """int64 [length], what the tokens that cover a character hold on average; bool [length], whether any does (None
    where all are covered, as they mostly are)."""
    # Where no token overlaps another, gaps and tokens come in turn, and each is repeated over its characters.
    lengths = np.diff(offsets.ravel(), prepend=0, append=length)
    if (lengths >= 0).all():
        held, is_token = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), bool)
        held[1::2], is_token[1::2] = values, True
        return np.repeat(held, lengths), np.repeat(is_token, lengths) if lengths[::2].any() else None
    character, token = spans.characters(offsets)
    total = np.bincount(character, values[token], minlength=length)
    count = np.bincount(character, minlength=length)
    return np.rint(total / np.maximum(count, 1)).astype(np.int64), count > 0


def weights_of(weights: Dump | list[np.ndarray], first: int, encoded: list[Encoded]) -> np.ndarray:
    """float32 [tokens of all texts]: what ranks the tokens of texts number `first` (from 0) and following, as the
    training tokenizer cut them.

    Weights of another tokenizer are projected. A bare list must hold one value a token, with or without the special
    tokens that the tokenizer adds; InputError otherwise.
    """
    if isinstance(weights, Dump):
        weights.let_go()
        texts = slice(first, first + len(encoded) + 1)
        return project_texts(*part(weights, texts), *concatenate(encoded))
    found = []
    for row, encoded_text in enumerate(encoded, start=first):
        values = weights[row]
        if len(values) == len(encoded_text.input_ids) != len(encoded_text.offsets):
            values = values[encoded_text.positions]
        if len(values) != len(encoded_text.offsets):
            raise InputError(
                f"attn_weights: row {row + 1} has {len(values)} values, but the text has {len(encoded_text.offsets)} "
                f"tokens ({len(encoded_text.input_ids)} with special ones): the weights are of another text or "
                "tokenizer"
            )
        found.append(values)
    return np.concatenate(found)
