"""A long text's windows: which of its tokens are fed to a model together, and what each window is asked about them.

A text is fed as p special ids, its own n tokens, and q special ids (mostly a bos token first, and none behind). Where
that is more than `window` ids, it is cut into windows. Window k = 0, 1, ... is fed

    the p ids, the text's tokens from k * stride up to k * stride + w, and, if it is the last, the q ids

with w = window - p - q; the last is the first that reaches the text's end, and is shorter where the text ends before
its w tokens do. To the model each is a text by itself.

Reading attention (stage 1), a token's value is that of the window in which most tokens follow it: the last one that
holds it, min(j // stride, last) for token j. There are no ties, since of two windows the later ends later. So of token
j in its window the received attention r[j] (utils.received_attention) is the mean over the queries of that window that
follow it, w - stride of them at least, or else all that the text has; with include_self over j as well; with
queries=before_fields over those of these queries that stand before a field, and 0 if that window has none.

It is not the value that the whole text would give. A query shares its attention out among the tokens before it in its
window, so r is of the order of 1 / (place in the window), as in an uncut text it is of 1 / (place in the text): a token
at a window's start receives more than one at its end, whatever they are, and a shorter window makes larger values. Two
models that read the same windows have this at the same places, as they have it in whole texts. Between windows of other
lengths it would be most of the difference, so dumps say by which windows they were read, and those of other windows are
not contrasted (utils.contrast). For two tokenizers the same `window` is as many tokens, and not the same characters.

Training (stage 4), a token is learnt in the window in which most tokens stand before it, the first one that holds it.
In the others it is fed without loss, so that none counts twice.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from utils.errors import InputError
from utils.tokens import Encoded


class Window(NamedTuple):
    """places: int64 [t], which of the text's ids it is fed; reads: int64, those of the t whose values are wanted, only
    tokens with characters; learns: int64, those of the t that count in its loss.

    Over a text's windows, concatenated, `reads` are its tokens with characters, once each and in order; `learns` are
    all its ids but the first, likewise.
    """

    places: np.ndarray
    reads: np.ndarray
    learns: np.ndarray


def check_stride(config: Mapping) -> None:
    """Raise InputError if the windows would leave tokens out, or without a follower."""
    if config.window is not None and config.stride is not None and config.stride >= config.window:
        raise InputError(f"stride={config.stride}: must be below window={config.window}, so that windows overlap")


def size(window: int | None, context: int | None, model: str) -> int | None:
    """The most ids that are fed at once: `window`, or the model's context; None where neither says."""
    if window is not None and context is not None and window > context:
        raise InputError(f"window={window}: {model} takes at most {context} tokens")
    return window or context


def step(window: int, stride: int | None) -> int:
    """From one window's beginning to the next's: half a window, unless `stride` says otherwise."""
    return window // 2 if stride is None else stride


def windows(encoded_text: Encoded, window: int | None, stride: int | None) -> list[Window]:
    """The whole text as one, where it is no longer than `window`. Raises InputError if windows could not overlap."""
    count = len(encoded_text.input_ids)
    if window is None or count <= window:
        return [Window(np.arange(count), encoded_text.positions, np.arange(1, count))]
    stride = step(window, stride)
    begin, end = (
        (encoded_text.positions[0], encoded_text.positions[-1] + 1) if len(encoded_text.positions) else (0, count)
    )
    width = window - begin - (count - end)
    if width < 2:
        raise InputError(
            f"window={window}: {window - width} of its tokens are special, and windows that overlap need two others at "
            "least; give a larger one"
        )
    if not 0 < stride < width:
        raise InputError(
            f"stride={stride}: must be from 1 to below {width}, the window of {window} tokens without special ones; "
            "give another window or stride"
        )
    found, learnt = [], 1
    for first in range(begin, end, stride):
        last = first + width >= end
        stop = count if last else first + width
        places = np.concatenate([np.arange(begin), np.arange(first, stop)])
        own = np.arange(len(places)) >= begin
        has_characters = np.isin(places, encoded_text.positions)
        reads = own & has_characters & ((places < first + stride) | last)
        found.append(Window(places, np.flatnonzero(reads), np.flatnonzero(places >= learnt)))
        learnt = stop
        if last:
            break
    return found
