"""Received attention: what each token of a text receives from the tokens that follow it.

    r[j] = 1 / (L * H * (n-1-j)) * sum over layers, heads and queries i > j of A[l, h, i, j]

The maps A are never held: transformers calls `ReceivedAttention._attend` in place of a layer's attention, which
sums the columns of one block of queries after the other, so memory does not grow with the number of layers, nor
with the square of a text's length. The block's attention weights come from the model's own eager attention, so
grouped queries, soft caps, sinks, sliding windows and the like are what the model does, not what we think it does.
"""

import math
import sys
from functools import lru_cache, partial

import numpy as np
import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from utils.errors import InputError

NAME = "received_attention"

BLOCK_ELEMENTS = 2**23
"""Attention weights held at once: batch * heads * queries of the block * keys (32 MiB in float32)."""


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


class BlockMask:
    """A layer's mask as a rule; `__call__` makes the part for a block of queries, additive, [batch, 1, queries, keys].

    Stands where a mask tensor would, as transformers' own flex-attention masks do: models hand it on unread.
    """

    def __init__(self, **arguments):
        # Layers come one after the other; where one block holds the whole text, they share its mask.
        self.make = lru_cache(maxsize=1)(partial(eager_mask, **arguments))

    def __call__(self, first_key: int, start: int, end: int, dtype: torch.dtype) -> torch.Tensor:
        """For the queries from `start` and the keys from `first_key`, both up to `end`."""
        return self.make(
            q_length=end - start, q_offset=start, kv_length=end - first_key, kv_offset=first_key, dtype=dtype
        )


class LastLayerRead(Exception):
    """Ends a pass through the model: nothing after the last layer's attention weights matters here."""


class ReceivedAttention:
    """Puts itself in place of `model`'s attention; calling it with a batch gives r for each position.

    include_self: count the queries i >= j instead of i > j (the divisor is then n - j).
    Raises InputError for an architecture whose attention does not pass through transformers' interface.
    """

    def __init__(self, model: PreTrainedModel, include_self: bool = False):
        self.model = model
        self.include_self = include_self
        self.layers = None  # how many layers call `_attend`, known once a whole pass is done
        AttentionInterface.register(NAME, self._attend)
        AttentionMaskInterface.register(NAME, lambda **arguments: BlockMask(**arguments))
        try:
            model.set_attn_implementation(NAME)
        except (ValueError, KeyError) as error:
            raise self._bypassed() from error
        if model.config._attn_implementation != NAME:
            raise self._bypassed()

    @torch.inference_mode()
    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """float32 [batch, T] on the CPU from int64 [batch, T] each; padding (mask 0) stands on the right and gets 0."""
        self.real = attention_mask.bool()
        self.total = torch.zeros(input_ids.shape, dtype=torch.float32, device=input_ids.device)
        self.maps = self.calls = 0
        try:
            # The body without its vocabulary head, which extraction has no use for.
            self.model.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
            self.layers = self.calls
        except LastLayerRead:
            pass
        except KeyError as error:
            raise self._bypassed() from error
        if self.maps == 0:
            raise self._bypassed()
        length = attention_mask.sum(dim=1, keepdim=True)
        followers = length - torch.arange(input_ids.shape[1], device=length.device)
        if not self.include_self:
            followers = followers - 1
        received = self.total / (self.maps * followers.clamp(min=1))
        return received.masked_fill(~self.real, 0.0).cpu()

    def texts(self, input_ids: list[list[int]]) -> list[np.ndarray]:
        """float32 [T] for each text, from the ids that it is fed as."""
        device = self.model.get_input_embeddings().weight.device
        length = max(map(len, input_ids))
        padded = torch.zeros(len(input_ids), length, dtype=torch.long)
        mask = torch.zeros_like(padded)
        for row, ids in enumerate(input_ids):
            padded[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = 1
        received = self(padded.to(device), mask.to(device)).numpy()
        return [row[: len(ids)] for row, ids in zip(received, input_ids, strict=True)]

    def _attend(self, module, query, key, value, attention_mask, dropout=0.0, **kwargs):
        """One layer: query [batch, heads, T, size] -> output [batch, T, heads, size]; adds to the columns' sums."""
        readable = isinstance(attention_mask, BlockMask) and query.shape[2] == self.real.shape[1]
        if not readable or not getattr(module, "is_causal", True):
            raise self._bypassed()
        eager = sys.modules[type(module).__module__].eager_attention_forward
        batch, heads, length, _ = query.shape
        real = self.real.to(query.device)
        received = torch.zeros(batch, length, dtype=torch.float32, device=query.device)
        window = kwargs.get("sliding_window") or length
        outputs, start = [], 0
        while start < length:
            # A query looks at no later key and at none before its window, so a block has before + rows keys: the
            # most rows for which rows * (before + rows) weights a head fit.
            first_key = max(0, start - window + 1)
            before = start - first_key
            rows = (math.isqrt(before**2 + 4 * (BLOCK_ELEMENTS // (batch * heads))) - before) // 2
            end = min(length, start + max(1, rows))
            output, weights = eager(
                module,
                query[:, :, start:end],
                key[:, :, first_key:end],
                value[:, :, first_key:end],
                # Made on the first layer's device; a sharded model's other layers lie elsewhere.
                attention_mask(first_key, start, end, query.dtype).to(query.device),
                dropout=0.0,
                **kwargs,
            )
            outputs.append(output)
            if not self.include_self:
                torch.diagonal(weights[..., before:], dim1=2, dim2=3).zero_()
            # Queries of padding attend to something as well; they are nobody's followers.
            weights.masked_fill_(~real[:, None, start:end, None], 0.0)
            received[:, first_key:end] += weights.sum(dim=(1, 2), dtype=torch.float32)
            start = end
        self.total += received.to(self.total.device)
        self.maps += heads
        self.calls += 1
        if self.calls == self.layers:
            raise LastLayerRead
        return torch.cat(outputs, dim=1), None

    def _bypassed(self) -> InputError:
        kind = self.model.config.model_type
        return InputError(
            f"model type {kind}: its attention does not pass through transformers' attention interface "
            "(or is not causal), so received attention can't be read from it; use another model"
        )
