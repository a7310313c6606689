"""A model's greedy answers to questions, and how likely it finds given answers."""

import copy
import math
import os
from collections.abc import Collection, Iterator
from itertools import pairwise

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerFast

from utils import tokens
from utils.errors import InputError, is_out_of_memory, one_line
from utils.model_source import context
from utils.models import weights_precision
from utils.padding import batches, input_device, padded
from utils.questions import Question

BATCH_TOKENS = {"cpu": 4096, "cuda": 16384}
"""Where the user gives none. The cache of 16,384 tokens takes 2 GB in a model of Llama 3 8B's shape, 5 GB in one of
70B's. On a CPU as many asked for 33 GB at once, in a product of Qwen2.5-Coder 0.5B."""


def answer_tokens(tokenizer: PreTrainedTokenizerFast, questions: list[Question]) -> list[int]:
    """How many tokens each accepted answer has, with the space before it."""
    pairs = [(question.prompt, answer) for question in questions for answer in question.accepted]
    with_answers = [f"{prompt} {answer}" for prompt, answer in pairs]
    return [
        int((encoded.offsets[:, 1] > len(prompt)).sum())
        for (prompt, _), encoded in zip(pairs, tokens.encode(tokenizer, with_answers, "tokenizer"), strict=True)
    ]


def check_questions(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, questions: list[Question], room: int
) -> None:
    """Raise InputError, naming the question, if a prompt and `room` tokens of answer exceed the model's context, or
    where it or an answer to choose has a token that the model does not know, or no token: its likelihood would be 1; or
    if a part of an answer is unknown to the tokenizer."""
    limit, rows = context(model.config), tokens.embedding_rows(model)
    prompts = tokens.encode(tokenizer, [question.prompt for question in questions], "tokenizer")
    choices = sorted({choice for question in questions for choice in (question.answer, *question.choices)})
    for choice, encoded in zip(choices, tokens.encode(tokenizer, [f" {one}" for one in choices], False), strict=True):
        tokens.check_ids(encoded, rows, f"the answer {choice}")
        check_any(encoded, f"the answer {choice}")
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in encoded.input_ids:
            raise InputError(
                f"the answer {choice}: the tokenizer does not know all of it ({tokenizer.unk_token}), and any like it "
                "would be as likely; leave the question out"
            )
    for question, prompt in zip(questions, prompts, strict=True):
        tokens.check_ids(prompt, rows, question.place)
        check_any(prompt, f"{question.place}: the prompt")
        count = len(text_ids(prompt))
        if limit is not None and count + room > limit:
            raise InputError(
                f"{question.place}: the prompt has {count} tokens, its answer up to {room}, and the model takes "
                f"{limit}: lower shots=..., or shorten the prompts"
            )


def check_any(encoded: tokens.Encoded, what: str) -> None:
    if not len(encoded.positions):
        raise InputError(f"{what} has no token: the tokenizer knows none of its characters; leave the question out")


CHECKED_STEPS = 16
"""How many single tokens `check_cache` has a model go on by."""


HIDDEN_BY_ROUNDING = {
    *("blenderbot-small", "hy_v4", "jamba", "minimax_m3_vl_text"),
    *("camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}
"""Types of model that `check_cache` finds out in float32, and that bfloat16's rounding would hide from it."""


@torch.inference_mode()
def check_cache(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, question: Question) -> None:
    """Raise InputError if a padded batch that goes on from the cache gives other logits than each text alone.

    Not every architecture keeps all that it needs in transformers' cache: Mamba, RWKV and RecurrentGemma do not. Jamba
    loses its state where several tokens follow at once, BART's positions count the padding, RoBERTa's begin at 2.
    """
    (encoded,) = tokens.encode(tokenizer, [f"{question.prompt} {question.answer}"], "tokenizer")
    text = text_ids(encoded)
    count, half = len(text), len(text) // 2
    rows = [text, text[half // 2 :]]
    device = input_device(model)
    ids, mask = (part.to(device) for part in padded(rows, left=True))
    # After the first half several tokens at once, as a gold answer's, then single ones, as in generating.
    ends = [half, *range(max(half + 2, count - CHECKED_STEPS), count), count]
    refusal = (
        f"a model of type {model.config.model_type} gives other results with a cache in a padded batch, so evaluate.py "
        "can't use it"
    )
    if model.config.model_type in HIDDEN_BY_ROUNDING:
        raise InputError(refusal)
    # Rounding moves logits by 2e-6 of their spread in float32 and by 0.02 in bfloat16; a prompt forgotten, by 0.3.
    limit = 3e-5 if weights_precision(model) == "float32" else 0.1
    agree = True
    try:
        cache = DynamicCache(config=model.config)
        next_logits(model, ids[:, :half], mask[:, :half], cache, logits_to_keep=1)
        steps = [next_logits(model, ids[:, start:end], mask[:, :end], cache) for start, end in pairwise(ends)]
        for row, found in zip(rows, torch.cat(steps, dim=1).float(), strict=True):
            # The text by itself, at the model's own positions.
            logits = model(input_ids=torch.tensor([row], device=device), use_cache=False).logits
            alone = logits[0, half - count :].float()
            off = (found - alone).abs().mean(dim=1) / alone.std()
            for steps_off in off.split([ends[1] - half, count - ends[1]]):
                # The median: rounding may have two like experts change places at a token.
                agree &= not steps_off.median() > limit
    except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        # Each architecture has its own way to fail.
        raise InputError(f"{refusal}: {one_line(error)}") from error
    if not agree:
        raise InputError(refusal)


def text_ids(encoded: tokens.Encoded) -> list[int]:
    """The ids up to the text's last token: an end-of-text token that a tokenizer puts after it is no part of it."""
    return encoded.input_ids[: int(encoded.positions[-1]) + 1]


@torch.inference_mode()
def greedy_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[str],
    golds: list[str],
    max_new_tokens: int,
    batch_tokens: int,
    done: Collection[int] = (),
) -> Iterator[dict[int, tuple[str, float]]]:
    """Yield, batch by batch, {index of the prompt: (the model's greedy continuation up to the first newline, and the
    gold answer's log-likelihood, as `log_likelihoods` defines it)}; batches that are `done` as a whole are left out.

    The prompts run through the model once for both. They are padded on the left and the padding is masked, so an
    answer does not depend on its batch.
    """
    device = input_device(model)
    encoded = list(map(text_ids, tokens.encode(tokenizer, prompts, "tokenizer")))
    with_gold = [f"{prompt} {gold}" for prompt, gold in zip(prompts, golds, strict=True)]
    continued = list(map(text_ids, tokens.encode(tokenizer, with_gold, "tokenizer")))
    for batch in batches([len(prompt_ids) for prompt_ids in encoded], batch_tokens):
        if all(index in done for index in batch):
            continue
        ids, mask = (part.to(device) for part in padded([encoded[index] for index in batch], left=True))
        # All but the last token, whose logits both parts begin with.
        cache = DynamicCache(config=model.config)
        if ids.shape[1] > 1:
            next_logits(model, ids[:, :-1], mask[:, :-1], cache, logits_to_keep=1)
        # A tokenizer may cut the prompt otherwise once an answer follows it: then it is done by itself.
        recut = [row for row, i in enumerate(batch) if continued[i][: len(encoded[i])] != encoded[i]]
        following = [continued[index][len(encoded[index]) - 1 :] for index in batch]
        for row in recut:
            following[row] = encoded[batch[row]][-1:] * 2
        # In parts where gold answers are longer than the prompts: logits are made for each of their tokens.
        at_once = max(1, batch_tokens // max(map(len, following)))
        likelihoods = []
        for start in range(0, len(batch), at_once):
            rows = slice(start, start + at_once)
            own = copy.deepcopy(cache)
            if at_once < len(batch) and ids.shape[1] > 1:
                own.reorder_cache(torch.arange(len(batch), device=device)[rows])
            likelihoods += continuation_log_likelihoods(model, mask[rows], following[rows], own)
        for row in recut:
            index = batch[row]
            (likelihoods[row],) = log_likelihoods(model, tokenizer, prompts[index], [golds[index]], 1)
        answers = greedy_lines(model, tokenizer, mask, ids[:, -1:], cache, max_new_tokens)
        yield dict(zip(batch, zip(answers, likelihoods, strict=True), strict=True))


def greedy_lines(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    mask: torch.Tensor,
    last: torch.Tensor,
    cache: DynamicCache,
    max_new_tokens: int,
) -> list[str]:
    """What the likeliest token each time makes of each row, up to a newline, an end-of-text token or max_new_tokens.

    `last` [batch, 1] is the last of the tokens that `mask` [batch, T] shows, and the cache holds those before it.
    transformers' `generate` is not used: what a model's generation_config.json says (penalties, beams, suppressed
    tokens, time limits ...) would change the answers.
    """
    ends = end_tokens(model, tokenizer)
    lines = [""] * len(last)
    generated: dict[int, list[int]] = {row: [] for row in range(len(last))}
    for _ in range(max_new_tokens):
        last = next_logits(model, last, mask, cache)[:, -1].argmax(dim=1, keepdim=True)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        chosen = last.flatten().tolist()
        for row, ids in list(generated.items()):
            is_end = chosen[row] in ends
            if not is_end:
                ids.append(chosen[row])
                text = tokenizer.decode(ids, skip_special_tokens=True)
                lines[row] = text.split("\n")[0].strip()
            if is_end or "\n" in text:
                del generated[row]
        if not generated:
            break
    return lines


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """The tokens that end a text: chat models have more of them than their tokenizer names."""
    found: set[int] = set()
    for source in (model.generation_config, model.config.get_text_config(), tokenizer):
        named = getattr(source, "eos_token_id", None)
        found.update(named if isinstance(named, (list, tuple)) else [named])
    return found - {None}


def next_logits(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache | None, **options
) -> torch.Tensor:
    """[batch, n, vocabulary]: the logits of what follows each of the ids [batch, n], the last of mask's [batch, T].

    The cache holds the tokens before them, and then these too; None: nothing is before them, and nothing is kept.
    """
    # Each token's place among its row's, padding aside, as transformers counts in generating.
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions[:, -ids.shape[1] :],
        past_key_values=cache,
        use_cache=cache is not None,
        **options,
    ).logits


def continuation_log_likelihoods(
    model: PreTrainedModel, mask: torch.Tensor, ids: list[list[int]], cache: DynamicCache
) -> list[float]:
    """For each row the sum of log-probabilities of ids[1:]; ids[0] is the last of the tokens that `mask` shows
    [batch, T], and the cache holds those before it."""
    device = mask.device
    following, real = (part.to(device) for part in padded(ids))
    mask = torch.cat([mask[:, :-1], real], dim=1)
    logits = next_logits(model, following[:, :-1], mask[:, :-1], cache)
    chosen = log_probabilities(logits, following[:, 1:])
    return checked((chosen.double() * real[:, 1:].to(chosen.device)).sum(dim=1).tolist())


def checked(likelihoods: list[float]) -> list[float]:
    if any(map(math.isnan, likelihoods)):
        raise InputError(
            "the model's probabilities are not numbers (NaN): try dtype=float32; if that fails, its training diverged"
        )
    return likelihoods


def log_probabilities(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """float32 [batch, T]: the natural log of each id's probability; logits [batch, T, vocabulary], ids [batch, T]."""
    logits = logits.float()
    return logits.gather(2, ids[:, :, None].to(logits.device)).squeeze(2) - logits.logsumexp(dim=2)


def log_likelihoods(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: str, answers: list[str], batch_tokens: int
) -> list[float]:
    """As `choice_log_likelihoods`, of one prompt."""
    (found,) = choice_log_likelihoods(model, tokenizer, [prompt], [answers], batch_tokens)
    return found[0]


@torch.inference_mode()
def choice_log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[str],
    choices: list[list[str]],
    batch_tokens: int,
    done: Collection[int] = (),
) -> Iterator[dict[int, list[float]]]:
    """Yield, batch by batch, {index of the prompt: for each of its choices the natural log of the probability that the
    model continues the prompt with a space and this choice}; batches that are `done` as a whole are left out.

    Each prompt runs through the model once; its choices, in batches with those of other prompts, share what it left in
    the cache.
    """
    device = input_device(model)
    lengths = [len(prompt.input_ids) for prompt in tokens.encode(tokenizer, prompts, "tokenizer")]
    for batch in batches(lengths, batch_tokens):
        if all(index in done for index in batch):
            continue
        continued = [continued_by(tokenizer, prompts[index], choices[index]) for index in batch]
        ids, mask = (part.to(device) for part in padded([prefix for prefix, _, _ in continued], left=True))
        cache = DynamicCache(config=model.config)
        if ids.shape[1]:
            next_logits(model, ids, mask, cache, logits_to_keep=1)
        # (the prompt's row in the batch, which of its choices, the choice's ids, how many of them are the prompt's)
        rows = [
            (row, place, choice_ids, begin)
            for row, (_, following, begins) in enumerate(continued)
            for place, (choice_ids, begin) in enumerate(zip(following, begins, strict=True))
        ]
        found = [[0.0] * len(choices[index]) for index in batch]
        for part in batches([ids.shape[1] + len(choice_ids) for _, _, choice_ids, _ in rows], batch_tokens):
            part_ids, real = (one.to(device) for one in padded([rows[index][2] for index in part]))
            at = torch.tensor([rows[index][0] for index in part], device=device)
            expanded = copy.deepcopy(cache)
            if ids.shape[1]:
                # Every kind of cache can do this, those of hybrid models too: a prompt's row for each of its choices.
                expanded.reorder_cache(at)
            logits = next_logits(model, part_ids[:, :-1], torch.cat([mask[at], real[:, :-1]], dim=1), expanded)
            log_probability = log_probabilities(logits, part_ids[:, 1:]).cpu()
            for index, token_log_probabilities in zip(part, log_probability, strict=True):
                row, place, choice_ids, begin = rows[index]
                found[row][place] = float(token_log_probabilities[begin - 1 : len(choice_ids) - 1].double().sum())
        yield {index: checked(likelihoods) for index, likelihoods in zip(batch, found, strict=True)}


def continued_by(
    tokenizer: PreTrainedTokenizerFast, prompt: str, answers: list[str]
) -> tuple[list[int], list[list[int]], list[int]]:
    """The prompt's ids that all answers share, without the last of them; for each answer, the ids after these; and how
    many of those are the prompt's: at least one, which predicts the answer's first token."""
    encoded = tokens.encode(tokenizer, [f"{prompt} {answer}" for answer in answers], "tokenizer")
    ids = list(map(text_ids, encoded))
    # Where the answer begins among the ids: at the first token that reaches beyond the prompt.
    begins = [int(text.positions[text.offsets[:, 1] > len(prompt)][0]) for text in encoded]
    shared = len(os.path.commonprefix([answer_ids[:begin] for answer_ids, begin in zip(ids, begins, strict=True)]))
    # The last shared token is fed with the answers.
    prefix = max(shared - 1, 0)
    return ids[0][:prefix], [answer_ids[prefix:] for answer_ids in ids], [begin - prefix for begin in begins]
