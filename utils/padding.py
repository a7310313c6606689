"""Texts of several lengths as one batch, and where a model takes it."""

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel


def padded(rows: list[list[int]], padding: int = 0, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 [rows, longest] each: the ids with `padding` on the right (or left), and a mask of 1 for ids and 0 else."""
    side = "left" if left else "right"
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    ones = [torch.ones_like(row) for row in ids]
    return pad_sequence(ids, True, padding, side), pad_sequence(ones, True, 0, side)


def input_device(model: PreTrainedModel) -> torch.device:
    """Where a batch's ids go: to the embedding or, if its weights are kept on the CPU or the disk, to where accelerate
    brings them."""
    embedding = model.get_input_embeddings()
    hook = getattr(embedding, "_hf_hook", None)
    return torch.device(embedding.weight.device if hook is None else hook.execution_device)


def batches(lengths: list[int], batch_tokens: int) -> list[list[int]]:
    """Indices of texts in batches of at most `batch_tokens` tokens with padding, texts of like length together.

    The longest come first, so that what does not fit in memory shows at once; a text that is longer than
    `batch_tokens` makes a batch by itself.
    """
    found: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        longest = lengths[found[-1][0]] if found else 0
        if found and longest * (len(found[-1]) + 1) <= batch_tokens:
            found[-1].append(index)
        else:
            found.append([index])
    return found
