"""A text's tokens as a model is fed them, with the characters that each covers. Needs no torch."""

import itertools
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from utils.dropout import NEVER_DROPPED
from utils.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass
class Encoded:
    """One text as a model is fed it.

    input_ids: list of T ids, special tokens among them; positions: int64 [n], where among the T the tokens are
    that have characters in the text; offsets: int32 [n, 2], those characters, end exclusive; special: bool [n],
    which of the n are special tokens that the text itself spells out.
    """

    input_ids: list[int]
    positions: np.ndarray
    offsets: np.ndarray
    special: np.ndarray


def encode(tokenizer: "PreTrainedTokenizerFast", texts: list[str], prepend_bos: str | bool = "auto") -> list[Encoded]:
    """Each text's tokens as the model is fed them.

    prepend_bos: "auto" feeds what the tokenizer adds by itself and, where that does not begin with a special
    token, the bos token (or, lacking one, the end-of-text token) first, so that the text's first word is not
    every query's attention sink; True puts the bos token first in any case, False feeds no special token;
    "tokenizer" leaves it to the tokenizer.
    """
    if not texts:  # of several processes one may have none
        return []
    encoded = tokenizer(
        texts,
        add_special_tokens=prepend_bos is not False,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        verbose=False,
    )
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    # All texts at once: numpy's calls cost more than what they do for one short text.
    flat = itertools.chain.from_iterable
    special = np.fromiter(flat(encoded["special_tokens_mask"]), dtype=bool)
    offsets = np.fromiter(flat(flat(encoded["offset_mapping"])), dtype=np.int32).reshape(-1, 2)
    in_text = (offsets[:, 0] < offsets[:, 1]) & ~special
    ids = np.fromiter(flat(encoded["input_ids"]), dtype=np.int64)
    spelt_out = np.isin(ids, tokenizer.all_special_ids)
    results = []
    end = 0
    for text, input_ids in zip(texts, encoded["input_ids"], strict=True):
        begin, end = end, end + len(input_ids)
        begins_special = begin < end and bool(special[begin])
        missing = (prepend_bos == "auto" and not begins_special) or (prepend_bos is True and input_ids[:1] != [bos])
        if missing and bos is None:
            if prepend_bos is True:
                raise InputError("prepend_bos=True: the tokenizer has neither a bos nor an end-of-text token")
            missing = False
        shift = int(missing)
        kept = in_text[begin:end]
        text_offsets = offsets[begin:end][kept]
        if not unicodedata.is_normalized("NFC", text):
            text_offsets = with_marks(text, text_offsets)
        results.append(
            Encoded(
                [bos] * shift + list(input_ids),
                np.flatnonzero(kept) + shift,
                text_offsets,
                spelt_out[begin:end][kept],
            )
        )
    return results


def with_marks(text: str, offsets: np.ndarray) -> np.ndarray:
    """The offsets, each token's end moved over what follows it and no token covers, up to white space.

    A tokenizer that composes letters and their marks (NFC: Qwen, Pythia, OLMo) gives the composed letter the place of
    the bare one alone; what remained of a dropped letter would be its marks.
    """
    covered = np.zeros(len(text) + 1, dtype=bool)
    for start, end in offsets:
        covered[start:end] = True
    moved = offsets.copy()
    for index, (start, end) in enumerate(offsets):
        # With these nothing is composed, and with what follows they would no longer be what is never dropped.
        if text[start:end].strip() in NEVER_DROPPED:
            continue
        while end < len(text) and not covered[end] and not text[end].isspace():
            end += 1
        moved[index, 1] = end
    return moved


def concatenate(encoded: list[Encoded]) -> tuple[np.ndarray, np.ndarray]:
    """All texts' offsets, int32 [tokens, 2], and bounds, int64 [texts + 1]: text i has bounds[i] to bounds[i + 1]."""
    bounds = np.cumsum([0, *(len(encoded_text.offsets) for encoded_text in encoded)])
    return np.concatenate([np.zeros((0, 2), np.int32), *(encoded_text.offsets for encoded_text in encoded)]), bounds


def embedding_rows(model: "PreTrainedModel") -> int:
    return model.get_input_embeddings().weight.shape[0]


def check_ids(encoded: Encoded, rows: int, what: str) -> None:
    """Raise InputError, which begins with `what`, where a token's id is beyond the rows of the model's embedding."""
    check_id(max(encoded.input_ids, default=0), rows, what)


def check_id(highest: int, rows: int, what: str) -> None:
    if highest >= rows:
        raise InputError(
            f"{what}: token id {highest} is out of range for the model's embedding of {rows} rows; use the tokenizer "
            "that the model was trained with"
        )


def highest_id(encoded: list[Encoded], first: int) -> tuple[int, int]:
    """The highest of the texts' ids, and the row that it is in (the first text's number, from 0, is `first`)."""
    found = ((max(encoded_text.input_ids, default=0), row) for row, encoded_text in enumerate(encoded, start=first + 1))
    return max(found, key=lambda id_and_row: id_and_row[0])
