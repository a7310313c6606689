"""Received attention the plain way: one text at a time, all layers' maps from `output_attentions`, then the mean."""

import numpy as np
import torch
from transformers import PreTrainedModel


@torch.inference_mode()
def received_attention(model: PreTrainedModel, texts: list[list[int]]) -> list[np.ndarray]:
    """float32 [T] for each text's ids."""
    model.set_attn_implementation("eager")
    received = []
    for ids in texts:
        attentions = model(input_ids=torch.tensor([ids]), output_attentions=True).attentions
        maps = torch.stack(attentions)[:, 0].float()  # [layers, heads, T, T]
        followed = torch.tril(maps, diagonal=-1).mean(dim=(0, 1)).sum(dim=0)
        followers = torch.arange(len(ids) - 1, -1, -1).clamp(min=1)
        received.append((followed / followers).numpy())
    return received
