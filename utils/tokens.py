"""A tokenizer, what identifies it, and a text's tokens with the characters that each covers. Needs no torch."""

import contextlib
import difflib
import functools
import hashlib
import itertools
import json
import os
import socket
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from utils.adapters import adapter_base, check_base
from utils.dropout import NEVER_DROPPED
from utils.errors import InputError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast


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


def source(model: str) -> dict[str, object]:
    """The arguments of transformers' `from_pretrained` for a hub name, a folder or a `.gguf` file."""
    path = Path(model).expanduser()
    if path.is_file():
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    if path.is_dir():
        return {"pretrained_model_name_or_path": str(path)}
    return {"pretrained_model_name_or_path": model, "local_files_only": not _hub_answers()}


def load_tokenizer(model: str, trust_remote_code: bool = False, base: str | None = None) -> "PreTrainedTokenizerFast":
    """The model's tokenizer, with a padding token if it has any special one.

    An adapter's folder without one gives that of the base model that it names, or of `base`.
    Raises InputError where it can't be had or gives no character offsets.
    """
    from transformers import AutoTokenizer

    named = adapter_base(model)
    if named is not None:
        check_base(model, base or named)
        if not has_tokenizer(model):
            return load_tokenizer(base or named, trust_remote_code)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(**source(model), trust_remote_code=trust_remote_code)
    except Exception as error:  # a damaged file can raise nearly anything
        raise cannot_load("tokenizer", model, error) from error
    if not tokenizer.is_fast:
        raise InputError(f"model={model}: its tokenizer is a slow one, without character offsets; a fast one is needed")
    check_template(tokenizer, model)
    if tokenizer.pad_token is None:
        # Padding is always masked, so any special token serves. An ordinary one would be saved as a special one.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token or tokenizer.unk_token
    return tokenizer


def has_tokenizer(adapter: str) -> bool:
    return (Path(adapter).expanduser() / "tokenizer_config.json").is_file()


@contextlib.contextmanager
def quiet_transformers():
    """Without its warnings and its tables of weights that do not fit: what is wrong is an error here, and one line."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def check_template(tokenizer: "PreTrainedTokenizerFast", model: str) -> None:
    """Raise InputError where the template of special tokens names one that it does not define: that would abort."""
    processor = tokenizer.backend_tokenizer.post_processor
    described = json.loads(processor.__getstate__()) if processor else {}
    for part in [described, *described.get("processors", [])]:
        pieces = [*part.get("single", []), *part.get("pair", [])] if part.get("type") == "TemplateProcessing" else []
        for piece in pieces:
            named = piece.get("SpecialToken", {}).get("id")
            if named is not None and named not in part["special_tokens"]:
                raise InputError(f"model={model}: its tokenizer.json puts {named} around a text and does not define it")


def check_vocabulary(adapter: str, base: str, trust_remote_code: bool) -> None:
    """Raise InputError where the adapter's own tokenizer numbers its tokens otherwise than the base model's."""
    if not has_tokenizer(adapter):
        return
    try:
        of_base = load_tokenizer(base, trust_remote_code)
    except InputError:
        return  # weights without a tokenizer
    found = []
    for tokenizer in (load_tokenizer(adapter, trust_remote_code, base), of_base):
        # Added tokens may be the adapter's own, or a chat's.
        plain = tokenizer.get_vocab().items() - tokenizer.get_added_vocab().items()
        found.append({number: token for token, number in plain})
    own, other = found
    differ = [number for number in sorted(own.keys() & other.keys()) if own[number] != other[number]]
    if differ:
        raise InputError(
            f"{adapter}: the adapter's vocabulary is not that of {base} (token {differ[0]} is {own[differ[0]]!r} and "
            f"{other[differ[0]]!r}); give the base model that it was trained on"
        )


@functools.cache
def _hub_answers() -> bool:
    """Without a network, what is cached must serve at once: the hub's own client would retry for a minute."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True  # only the client knows how to get through the proxy
    hub = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.create_connection((hub.hostname, hub.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


def cannot_load(what: str, model: str, error: Exception) -> InputError:
    path = Path(model).expanduser()
    if not path.exists() and path.parent.is_dir():
        close = difflib.get_close_matches(path.name, [there.name for there in path.parent.iterdir()], n=1)
        if close:
            meant = path.with_name(close[0])
            return InputError(
                f"model={model}: not on this machine, and not available from the hub; did you mean {meant}?"
            )
    where = "" if path.exists() else " (not on this machine, and not available from the hub)"
    return InputError(
        f"model={model}: cannot load the {what}{where}: {one_line(error)} - give another model=..., "
        "a hub name, a folder or a .gguf file; `make models` fetches model=models/smollm2-135m"
    )


def fingerprint(tokenizer: "PreTrainedTokenizerFast") -> str:
    """A hash of what decides how a text is cut: vocabulary, merges, normalizer, pre-tokenizer, added tokens.

    The special tokens that are put around a text (the post-processor) and padding are no part of it: they
    are not in a dump, and a model's base and chat forms often differ in nothing else.
    """
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    cut = {key: rules.get(key) for key in ("model", "normalizer", "pre_tokenizer")}
    cut["added_tokens"] = sorted(token["content"] for token in rules.get("added_tokens", []) if not token["special"])
    return hashlib.sha256(json.dumps(cut, sort_keys=True).encode()).hexdigest()


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
        of_text = offsets[begin:end][kept]
        if not unicodedata.is_normalized("NFC", text):
            of_text = with_marks(text, of_text)
        results.append(
            Encoded(
                [bos] * shift + list(input_ids),
                np.flatnonzero(kept) + shift,
                of_text,
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


def end_to_end(encoded: list[Encoded]) -> tuple[np.ndarray, np.ndarray]:
    """All texts' offsets, int32 [tokens, 2], and bounds, int64 [texts + 1]: text i has bounds[i] to bounds[i + 1]."""
    bounds = np.cumsum([0, *(len(of_text.offsets) for of_text in encoded)])
    return np.concatenate([np.zeros((0, 2), np.int32), *(of_text.offsets for of_text in encoded)]), bounds


def embedding_rows(model: "PreTrainedModel") -> int:
    return model.get_input_embeddings().weight.shape[0]


def load_config(model: str, trust_remote_code: bool = False) -> "PreTrainedConfig":
    """The configuration of a model or, of an adapter, of its base model; its weights, which may take minutes, are not
    loaded. Raises InputError where it can't be read."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(**source(adapter_base(model) or model), trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise cannot_load("configuration", model, error) from error


def context(config: "PreTrainedConfig") -> int | None:
    """The most tokens that a model takes, as its configuration has it; None where it says nothing."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def check_ids(encoded: Encoded, rows: int, what: str) -> None:
    """Raise InputError, which begins with `what`, where a token's id is beyond the rows of the model's embedding."""
    check_id(max(encoded.input_ids, default=0), rows, what)


def check_id(highest: int, rows: int, what: str) -> None:
    if highest >= rows:
        raise InputError(
            f"{what}: the tokenizer gives a token the id {highest}, and the model's embedding has {rows} rows; "
            "take the tokenizer that the model was trained with"
        )


def highest_id(encoded: list[Encoded], first: int) -> tuple[int, int]:
    """The highest of the texts' ids, and the row that it is in (the first text's number, from 0, is `first`)."""
    found = ((max(of_text.input_ids, default=0), row) for row, of_text in enumerate(encoded, start=first + 1))
    return max(found, key=lambda id_and_row: id_and_row[0])


def pad_within(tokenizer: "PreTrainedTokenizerFast", rows: int) -> None:
    """Give the tokenizer another padding token if the model's embedding has no row for the one that it has; none if it
    has no other special token that the model knows."""
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= rows:
        known = (token for token in tokenizer.all_special_tokens if tokenizer.convert_tokens_to_ids(token) < rows)
        tokenizer.pad_token = next(known, None)
