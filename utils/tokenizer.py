"""A model's tokenizer: how it is loaded, what identifies it, what is wrong with it. Needs no torch."""

import hashlib
import json
from typing import TYPE_CHECKING

from utils.adapters import adapter_base, check_base, expanded
from utils.errors import InputError
from utils.model_source import cannot_load, quiet_transformers, source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def load_tokenizer(model: str, trust_remote_code: bool = False, base: str | None = None) -> "PreTrainedTokenizerFast":
    """The model's tokenizer, with a padding token if it has any special one.

    An adapter's folder without one gives that of the base model that it names, or of `base`.
    Raises InputError if it can't be had or gives no character offsets.
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
        raise InputError(f"model={model}: needs a fast tokenizer; this one gives no character offsets")
    check_template(tokenizer, model)
    merges = tokenizer.backend_tokenizer.model
    if getattr(merges, "dropout", None):
        merges.dropout = None  # it would skip merges at random, differently at each call
    if tokenizer.pad_token is None:
        # Padding is always masked, so any special token serves. An ordinary one would be saved as a special one.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token or tokenizer.unk_token
    return tokenizer


def has_tokenizer(adapter: str) -> bool:
    return expanded(adapter).joinpath("tokenizer_config.json").is_file()


def check_template(tokenizer: "PreTrainedTokenizerFast", model: str) -> None:
    """Raise InputError if the template of special tokens names one that it does not define: that would abort."""
    described = post_processor(tokenizer)
    for part in [described, *described.get("processors", [])]:
        pieces = [*part.get("single", []), *part.get("pair", [])] if part.get("type") == "TemplateProcessing" else []
        for piece in pieces:
            named = piece.get("SpecialToken", {}).get("id")
            if named is not None and named not in part["special_tokens"]:
                raise InputError(f"model={model}: its tokenizer.json adds {named} to a text but does not define it")


def post_processor(tokenizer: "PreTrainedTokenizerFast") -> dict:
    """What puts special tokens around a text, as tokenizer.json has it; empty if nothing does."""
    processor = tokenizer.backend_tokenizer.post_processor
    return json.loads(processor.__getstate__()) if processor else {}


def check_vocabulary(adapter: str, base: str, trust_remote_code: bool) -> None:
    """Raise InputError if the adapter's own tokenizer numbers its tokens differently from the base model's."""
    if not has_tokenizer(adapter):
        return
    try:
        base_tokenizer = load_tokenizer(base, trust_remote_code)
    except InputError:
        return  # weights without a tokenizer
    found = []
    for tokenizer in (load_tokenizer(adapter, trust_remote_code, base), base_tokenizer):
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


def fingerprint(tokenizer: "PreTrainedTokenizerFast") -> str:
    """A hash of everything that affects tokenization: vocabulary, merges, normalizer, pre-tokenizer, added tokens.

    The special tokens that are put around a text (the post-processor) and padding are no part of it: they
    are not in a dump, and a model's base and chat forms often differ in nothing else.
    """
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    cut = {key: rules.get(key) for key in ("model", "normalizer", "pre_tokenizer")}
    cut["added_tokens"] = sorted(token["content"] for token in rules.get("added_tokens", []) if not token["special"])
    return hashlib.sha256(json.dumps(cut, sort_keys=True).encode()).hexdigest()


def fed_around(tokenizer: "PreTrainedTokenizerFast") -> str:
    """What `fingerprint` leaves out, and a model is fed: the special tokens, and where they go."""
    return f"{post_processor(tokenizer)} {tokenizer.all_special_ids}"


def pad_within(tokenizer: "PreTrainedTokenizerFast", rows: int) -> None:
    """Give the tokenizer another padding token if the model's embedding has no row for the one that it has; none if it
    has no other special token that the model knows."""
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= rows:
        known = (token for token in tokenizer.all_special_tokens if tokenizer.convert_tokens_to_ids(token) < rows)
        tokenizer.pad_token = next(known, None)
