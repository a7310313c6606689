"""Few-shot evaluation the plain way: batches in file order, all new tokens generated, whole logits for likelihoods."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast


@torch.inference_mode()
def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[str],
    golds: list[str],
    max_new_tokens: int,
    batch_size: int = 8,
) -> list[tuple[str, float]]:
    """Each prompt's greedy continuation up to the first newline, and the gold answer's log-likelihood."""
    found = []
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        fed = tokenizer(batch, return_tensors="pt", padding=True, padding_side="left")
        generated = model.generate(
            **fed, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
        texts = tokenizer.batch_decode(generated[:, fed["input_ids"].shape[1] :], skip_special_tokens=True)
        whole = [f"{prompt} {gold}" for prompt, gold in zip(batch, golds[first : first + batch_size], strict=True)]
        fed = tokenizer(whole, return_tensors="pt", padding=True, padding_side="right")
        log_probabilities = model(**fed).logits.float().log_softmax(dim=2)
        for row, (text, prompt) in enumerate(zip(texts, batch, strict=True)):
            begin, end = len(tokenizer(prompt)["input_ids"]), int(fed["attention_mask"][row].sum())
            places = range(begin, end)
            likelihood = sum(float(log_probabilities[row, i - 1, fed["input_ids"][row, i]]) for i in places)
            found.append((text.split("\n")[0].strip(), likelihood))
    return found
