"""A model's greedy answers to questions, and how likely it finds given answers."""

import copy
import os
from collections.abc import Iterator

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.generation import StoppingCriteriaList, StopStringCriteria

from utils import tokens
from utils.questions import Question


def answer_tokens(tokenizer: PreTrainedTokenizerFast, questions: list[Question]) -> list[int]:
    """How many tokens each gold answer has, with the space before it."""
    with_answers = [f"{question.prompt} {question.answer}" for question in questions]
    return [
        int((encoded.offsets[:, 1] > len(question.prompt)).sum())
        for question, encoded in zip(questions, tokens.encode(tokenizer, with_answers, "tokenizer"), strict=True)
    ]


@torch.inference_mode()
def greedy_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: list[str], max_new_tokens: int, batch_size: int
) -> Iterator[dict[int, str]]:
    """Yield, batch by batch, {index of the prompt: the model's greedy continuation up to the first newline}.

    Prompts are padded on the left and the padding is masked, so an answer does not depend on its batch.
    """
    device = model.get_input_embeddings().weight.device
    padding = tokenizer.pad_token_id or 0  # always masked
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        pad_token_id=padding,
        eos_token_id=model.generation_config.eos_token_id,
    )
    # Its set-up reads the whole vocabulary, so it is made once.
    at_newline = StoppingCriteriaList([StopStringCriteria(tokenizer, ["\n"])])
    encoded = [of_prompt.input_ids for of_prompt in tokens.encode(tokenizer, prompts, "tokenizer")]
    # Prompts of like length together need little padding; the longest first shows at once if memory suffices.
    order = sorted(range(len(prompts)), key=lambda index: -len(encoded[index]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        length = len(encoded[batch[0]])
        padded = torch.tensor([[padding] * (length - len(encoded[index])) + encoded[index] for index in batch])
        mask = torch.tensor([[0] * (length - len(encoded[index])) + [1] * len(encoded[index]) for index in batch])
        generated = model.generate(
            input_ids=padded.to(device),
            attention_mask=mask.to(device),
            generation_config=settings,
            stopping_criteria=at_newline,
        )
        texts = tokenizer.batch_decode(generated[:, length:], skip_special_tokens=True)
        yield {index: text.split("\n")[0].strip() for index, text in zip(batch, texts, strict=True)}


@torch.inference_mode()
def log_likelihoods(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: str, answers: list[str], batch_size: int
) -> list[float]:
    """The natural log of the probability that the model continues `prompt` with a space and each answer.

    The prompt runs through the model once; the answers share what it left in the cache.
    """
    device = model.get_input_embeddings().weight.device
    encoded = tokens.encode(tokenizer, [f"{prompt} {answer}" for answer in answers], "tokenizer")
    ids = [of_text.input_ids for of_text in encoded]
    # Where the answer begins among the ids: at the first token that reaches beyond the prompt.
    begins = [int(of_text.positions[of_text.offsets[:, 1] > len(prompt)][0]) for of_text in encoded]
    shared = len(os.path.commonprefix([of_text[:begin] for of_text, begin in zip(ids, begins, strict=True)]))
    # The last shared token is fed with the answers: what it predicts is their first token.
    cached = max(shared - 1, 0)
    cache = None
    if cached:
        prefix = torch.tensor([ids[0][:cached]], device=device)
        cache = model(input_ids=prefix, use_cache=True, logits_to_keep=1).past_key_values
    order = sorted(range(len(answers)), key=lambda index: len(ids[index]))
    found = [0.0] * len(answers)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        longest = max(len(ids[index]) for index in batch)
        padded = torch.tensor([ids[index] + [0] * (longest - len(ids[index])) for index in batch], device=device)
        mask = torch.tensor([[1] * len(ids[index]) + [0] * (longest - len(ids[index])) for index in batch])
        expanded = copy.deepcopy(cache)
        if expanded is not None:
            expanded.batch_repeat_interleave(len(batch))
        logits = model(
            input_ids=padded[:, cached:-1], attention_mask=mask[:, :-1].to(device), past_key_values=expanded
        ).logits.float()
        chosen = logits.gather(2, padded[:, cached + 1 :, None].to(logits.device)).squeeze(2)
        log_probability = (chosen - logits.logsumexp(dim=2)).cpu()
        for row, index in enumerate(batch):
            first, last = begins[index] - cached - 1, len(ids[index]) - cached - 1
            found[index] = float(log_probability[row, first:last].double().sum())
    return found
