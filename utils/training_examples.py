"""What a model is trained on: texts made into examples, and how a batch of these is laid out.

torch and transformers, which take seconds to import, are imported by the functions that need them.
"""

import copy
from typing import TYPE_CHECKING

import numpy as np

from utils import tokens, windows
from utils.errors import InputError, is_out_of_memory
from utils.tokenizer import pad_within

if TYPE_CHECKING:
    from transformers import (
        DataCollatorForSeq2Seq,
        DataCollatorWithFlattening,
        PreTrainedModel,
        PreTrainedTokenizerFast,
    )

LOOKED_AT = 32
"""How many tokens `check_causal` looks at."""

IGNORED = -100
"""The label of a token that has no loss, to torch and transformers."""


def training_examples(
    tokenizer: "PreTrainedTokenizerFast",
    texts: list[str],
    window: int | None,
    stride: int | None,
    loss_on_blanks: bool,
    rows: int,
    dataset: str,
) -> tuple[list[dict[str, list[int]]], int]:
    """The texts as examples, in their order, and how many of the texts are cut. A text of more than `window` tokens
    gives several examples, its windows (utils.windows).

    An example of t tokens is {"input_ids": t ids, "labels": t ids or -100}: the token's id again where the token counts
    in the loss, -100 where it does not. Each of a text's tokens counts in one of its windows, but for the first, which
    nothing predicts, and, unless `loss_on_blanks`, for those of white space alone. A text without tokens, as to some
    tokenizers a blank one is, gives no example.

    rows: of the model's embedding. Raises InputError, naming the row of `dataset`, if a token's id is beyond them,
    and where no token of any text counts.
    """
    examples, cut = [], 0
    encoded = tokens.encode(tokenizer, texts, prepend_bos="tokenizer")
    for row, (plain, encoded_text) in enumerate(zip(texts, encoded, strict=True), start=1):
        tokens.check_ids(encoded_text, rows, f"{dataset}: row {row}")
        if not encoded_text.input_ids:
            continue
        ids = np.array(encoded_text.input_ids)
        to_learn = ids.copy()
        if not loss_on_blanks:
            for position, (start, end) in zip(encoded_text.positions, encoded_text.offsets, strict=True):
                if plain[start:end].isspace():
                    to_learn[position] = IGNORED
        text_windows = windows.windows(encoded_text, window, stride)
        cut += len(text_windows) > 1
        for places, _, learns in text_windows:
            # Nothing predicts the first token; some models would count it all the same in the mean over the batch.
            labels = np.full(len(places), IGNORED)
            labels[learns] = to_learn[places[learns]]
            examples.append({"input_ids": ids[places].tolist(), "labels": labels.tolist()})
    if all(label == IGNORED for example in examples for label in example["labels"]):
        raise InputError(f"{dataset}: no token counts in the loss: every text has at most one token, or only blanks")
    return examples, cut


def padding_collator(tokenizer: "PreTrainedTokenizerFast", rows: int, model: str) -> "DataCollatorForSeq2Seq":
    """What pads a batch's examples to the longest, with a token for which the model's embedding of so many rows has
    one. InputError if the tokenizer has none."""
    from transformers import DataCollatorForSeq2Seq

    pad_within(tokenizer, rows)
    if tokenizer.pad_token is None:
        raise InputError(f"model={model}: its tokenizer has no special token to pad with; use packing=true")
    # On the right, whatever the tokenizer says: on the left, positions that a model counts from the batch's first would
    # shift. A copy: the tokenizer itself is saved with the model.
    padding_right = copy.copy(tokenizer)
    padding_right.padding_side = "right"
    # Pads labels with -100 by position: an end-of-text token that serves as padding keeps its loss elsewhere.
    return DataCollatorForSeq2Seq(padding_right)


def packing_collator(model: "PreTrainedModel", examples: list[dict]) -> "DataCollatorWithFlattening":
    """What concatenates a batch's examples. InputError if the main process finds that the model lets them see
    each other."""
    from transformers import DataCollatorWithFlattening

    from utils.processes import is_main_process

    collator = DataCollatorWithFlattening()
    if is_main_process():
        check_packing(model.eval(), collator, examples[:2])
    return collator


def check_packing(model: "PreTrainedModel", collator, examples: list[dict]) -> None:
    """Raise InputError if concatenated texts see each other: not every architecture keeps them apart."""
    import torch

    def logits(some_examples: list[dict]) -> torch.Tensor:
        batch = collator(some_examples)
        fed = {key: batch[key].to(model.device) for key in ("input_ids", "position_ids")}
        return model(**fed, use_cache=False).logits[0].float()

    with torch.inference_mode():
        packed, apart = logits(examples), torch.cat([logits([example]) for example in examples])
    # bfloat16 moves logits by less than a hundredth of their spread, other texts in sight by a tenth and more.
    if (packed - apart).abs().mean() > 0.05 * apart.std():
        raise InputError(
            f"packing: in a model of type {model.config.model_type} packed texts see each other; use packing=false"
        )


def check_causal(model: "PreTrainedModel", examples: list[dict]) -> None:
    """Raise InputError if what the model says of a token depends on later ones, as in an encoder such as BERT: it would
    learn to copy what it sees."""
    import torch

    from utils.models import weights_precision
    from utils.padding import input_device

    ids = max((example["input_ids"][:LOOKED_AT] for example in examples), key=len)
    seen = max(1, len(ids) // 2)

    def logits(fed: list[int]) -> torch.Tensor:
        batch = torch.tensor([fed], device=input_device(model))
        return model(input_ids=batch, use_cache=False).logits[0, :seen].float()

    model.eval()
    try:
        with torch.inference_mode():
            whole, alone = logits(ids), logits(ids[:seen])
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return  # the Trainer will meet it as well, and say what it is
    off = ((whole - alone).abs().mean(dim=1) / alone.std()).median()
    # As in evaluate.py's check of the cache: 8 bit moves them by 0.03 of their spread, float32 by a millionth.
    if off > (1e-3 if weights_precision(model) == "float32" else 0.1):
        hint = "; its config.json says is_decoder: false" if getattr(model.config, "is_decoder", None) is False else ""
        raise InputError(
            f"a model of type {model.config.model_type} sees the tokens that it is to predict; use a causal one{hint}"
        )
