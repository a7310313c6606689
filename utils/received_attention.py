"""Received attention: what each token of a text receives from the tokens that follow it.

    r[j] = 1 / (L * H * (n-1-j)) * sum over layers, heads and queries i > j of A[l, h, i, j]

Where some queries alone count, r[j] is the mean over those of them that follow j, and 0 where none does; where some
layers alone count, it is over these.

The maps A are never held: transformers calls `ReceivedAttention._attend` in place of a layer's attention, which
sums the columns of one block of queries after the other, so memory does not grow with the number of layers, nor
with the square of a text's length. A block's attention weights come from `softmax_attention`, which is faster than
the model's own eager attention, where both give the same on a layer's first positions; otherwise (sinks and the
like) from the model's own, so that they are what the model does, not what we think it does. On a GPU the sums
of a long text come from `fused_attention`, without blocks, in each layer in which they were the same once.
"""

import math
import sys
from functools import partial

import numpy as np
import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, and_masks, eager_mask, padding_mask_function

from utils.artifacts import is_first_process
from utils.errors import InputError, is_out_of_memory, one_line
from utils.fused_attention import Rule, block_masks, fused_attention
from utils.padding import input_device, padded

NAME = "received_attention"
"""Of this way to attend, as transformers knows it; it serves while a `ReceivedAttention` reads."""

BLOCK_ELEMENTS = {"cpu": 3 * 2**19, "cuda": 2**24}
"""Attention weights held at once: batch * heads * queries of the block * keys. On a CPU they stay in its cache."""

BLOCK_KEYS = 256
"""A block's last key is at a multiple of this: the libraries keep code and memory for each shape that they meet, and
with as many shapes as blocks, memory grew faster than a text's length."""

MASK_ELEMENTS = 2**25
"""What a pass keeps of its blocks' masks from one layer to the next (64 MiB in bfloat16)."""


FUSED_LENGTH = {"cuda": 1024}
"""From how many tokens on a text's attention is fused; elsewhere it never is. Shorter, launching kernels takes longer
than what they do."""

CHECKED_POSITIONS = 32

UNUSUAL = ("s_aux",)
"""Arguments that make attention something else than a softmax, though perhaps not visibly so on the first positions."""


class MaskRead(AttributeError):
    """A model looks into its mask, to make another of it. (An AttributeError, so that hasattr(mask, "to") is False.)"""


class BlockMask:
    """A layer's mask as a rule; `__call__` makes the part for a block of queries, additive, [batch, 1, queries, keys].

    Stands where a mask tensor would, as transformers' own flex-attention masks do: models hand it on unread. What a
    model would do with a tensor raises MaskRead.
    """

    def _read(self, *arguments, **options):
        raise MaskRead

    __getitem__ = __len__ = __iter__ = __invert__ = __neg__ = __and__ = __or__ = __add__ = __sub__ = __mul__ = _read
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _read
    __torch_function__ = classmethod(_read)  # torch.where(mask, ...), scores + mask

    def __getattr__(self, name: str):
        raise MaskRead if hasattr(torch.Tensor, name) else AttributeError(name)

    def __init__(self, **arguments):
        self.make = partial(eager_mask, **arguments)
        self.kept: dict[tuple, tuple[torch.Tensor, int]] = {}
        self.room = MASK_ELEMENTS
        self.fused: dict[tuple, tuple] = {}

    def __call__(
        self, first_key: int, last_key: int, start: int, end: int, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """For the queries from `start` up to `end` and the keys from `first_key` up to `last_key`."""
        sizes = {"q_length": end - start, "q_offset": start, "kv_length": last_key - first_key, "kv_offset": first_key}
        # Made on the first layer's device; a sharded model's other layers lie elsewhere.
        return self.make(**sizes, dtype=dtype).to(device)

    def rule(self, device: torch.device) -> Rule:
        """The mask as FlexAttention takes it, for a layer on this device."""
        looks, padding = (self.make.keywords.get(name) for name in ("mask_function", "attention_mask"))
        return looks if padding is None else and_masks(looks, padding_mask_function(padding.to(device)))

    def for_fused(self, counted: torch.Tensor, groups: int, include_self: bool) -> tuple:
        """`block_masks` of the rule, kept from one layer to the next."""
        place = groups, counted.device
        if place not in self.fused:
            self.fused[place] = block_masks(self.rule(counted.device), counted, groups, include_self)
        return self.fused[place]

    def masked_part(self, *place) -> tuple[torch.Tensor, int]:
        """The same mask without its first columns, and how many these are: all queries look at their keys."""
        if place in self.kept:
            return self.kept[place]
        mask = self(*place)
        masked = mask.ne(0).flatten(0, 2).any(dim=0)
        # argmax gives the first of the largest.
        skipped = int(masked.int().argmax()) if masked.any() else len(masked)
        part = mask[..., skipped:].contiguous(), skipped
        if part[0].numel() <= self.room:
            self.room -= part[0].numel()
            self.kept[place] = part
        return part


def softmax_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    skipped: int,
    scaling: float,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output [batch, queries, heads, size] and float32 weights [batch, heads, queries, keys] of plain attention,
    softmax(capped(scaling * q k^T) + mask) v, from [batch, heads, queries, size] and twice [batch, key heads, keys,
    size].

    The mask leaves out the first `skipped` keys, which every query looks at. capped(score) is
    softcap * tanh(score / softcap), and the score itself if softcap is None.
    """
    batch, heads, queries, size = query.shape
    # Queries with one key head form one matrix, so that keys need no repeating.
    grouped = query.reshape(batch * key.shape[1], -1, size)
    scores = torch.bmm(grouped, key.flatten(0, 1).transpose(1, 2)).float().mul_(scaling)
    if softcap is not None:
        scores.div_(softcap).tanh_().mul_(softcap)
    scores = scores.view(batch, heads, queries, -1)
    scores[..., skipped:] += mask
    weights = torch.softmax(scores, dim=-1)
    grouped_weights = weights.view(*grouped.shape[:2], -1).to(value.dtype)
    # Values may differ in size from queries and keys (multi-head latent attention).
    output = torch.bmm(grouped_weights, value.flatten(0, 1)).view(batch, heads, queries, -1)
    return output.transpose(1, 2), weights


def scaled_by(kwargs: dict) -> tuple[float, float | None]:
    """scaling and softcap, from what a layer gives its attention."""
    return kwargs["scaling"], kwargs.get("softcap")


def own_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    kwargs: dict,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from the layer's own eager attention; the weights come in its own precision."""
    eager = sys.modules[type(module).__module__].eager_attention_forward
    return eager(module, query, key, value, mask, dropout=0.0, **kwargs)


def nobody_reads(*arguments, **options):
    raise RuntimeError("this model's attention was read; set_attn_implementation gives it another way to attend")


AttentionInterface.register(NAME, nobody_reads)
AttentionMaskInterface.register(NAME, BlockMask)


class LastLayerRead(Exception):
    """Ends a pass through the model: nothing after the last layer's attention weights matters here."""


class ReceivedAttention:
    """Puts itself in place of `model`'s attention; calling it with a batch gives r for each position.

    include_self: count the queries i >= j instead of i > j (the divisor is then n - j). layers: the numbers, from 0, of
    the layers that count, among those whose attention passes through transformers' interface; None: all.
    Raises InputError for an architecture whose attention does not, and for a layer that the model lacks.
    """

    def __init__(self, model: PreTrainedModel, include_self: bool = False, layers: list[int] | None = None):
        self.model = model
        self.include_self = include_self
        self.layers = layers
        # After how many calls of `_attend` nothing more matters; of all layers, known once a whole pass is done.
        self.needed = None if layers is None else max(layers) + 1
        self.is_softmax: dict[torch.nn.Module, bool] = {}  # which layers' attention is `softmax_attention`
        self.is_fused: dict[torch.nn.Module, bool] = {}  # of which layers `fused_attention` gives the sums
        self.unfused: set[tuple[int, int]] = set()  # sizes of heads for which its kernels can't be compiled
        try:
            model.set_attn_implementation(NAME)
        except (ValueError, KeyError) as error:
            raise self._bypassed() from error
        if model.config._attn_implementation != NAME:
            raise self._bypassed()

    @torch.inference_mode()
    def __call__(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, queries: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float32 [batch, T] on the CPU from int64 [batch, T] each; padding (mask 0) stands on the right and gets 0.

        queries: bool [batch, T], which tokens count as queries; None: all but padding.
        """
        self.real = real = attention_mask.bool()
        # Queries of padding attend to something as well; they are nobody's followers.
        self.queries = real if queries is None else queries & real
        # Read once: a layer that looked at a GPU's tensor would wait for all that the GPU has yet to do.
        self.all_count = bool(self.queries.all())
        self.total = torch.zeros(input_ids.shape, dtype=torch.float32, device=input_ids.device)
        self.maps = self.calls = 0
        # For this batch alone: transformers' table outlives the model, and another may be read in turn.
        AttentionInterface.register(NAME, self._attend)
        try:
            # The body without its vocabulary head, which extraction has no use for.
            self.model.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
            self.needed = self.needed or self.calls
        except LastLayerRead:
            pass
        except MaskRead as error:
            raise self._bypassed() from error
        except KeyError as error:
            if error.args != (NAME,):  # a model's own table of attention implementations
                raise
            raise self._bypassed() from error
        finally:
            AttentionInterface.register(NAME, nobody_reads)
        if self.calls == 0:
            raise self._bypassed()
        if self.calls < self.needed:
            raise InputError(f"layers={self.layers}: {self.calls} of the model's layers attend, numbered from 0")
        followers = self.queries.flip(1).cumsum(dim=1).flip(1)
        if not self.include_self:
            followers = followers - self.queries.int()
        received = self.total / (self.maps * followers.clamp(min=1))
        return received.masked_fill(~real, 0.0).cpu()

    def texts(self, input_ids: list[list[int]], queries: list[np.ndarray] | None = None) -> list[np.ndarray]:
        """float32 [T] for each text, from the ids that it is fed as; queries: the places, among a text's ids, of those
        that count as queries (None: all)."""
        if not any(input_ids):  # texts of characters that the tokenizer does not know, and no special token
            return [np.zeros(0, np.float32) for _ in input_ids]
        device = input_device(self.model)
        ids, mask = padded(input_ids)
        counted = None
        if queries is not None:
            counted = torch.zeros_like(ids, dtype=torch.bool)
            for row, places in enumerate(queries):
                counted[row, torch.from_numpy(places)] = True
            counted = counted.to(device)
        received = self(ids.to(device), mask.to(device), counted).numpy()
        return [row[: len(text_ids)] for row, text_ids in zip(received, input_ids, strict=True)]

    def _attend(self, module, query, key, value, attention_mask, dropout=0.0, **kwargs):
        """One layer: query [batch, heads, T, size] -> output [batch, T, heads, size]; adds to the columns' sums."""
        batch, heads, length, _ = query.shape
        # Queries and keys are to be the text's tokens, not summaries of several.
        readable = isinstance(attention_mask, BlockMask) and length == key.shape[2] == self.queries.shape[1]
        # Biases or chosen keys, given for all queries at once: no part of them is a block's, and a softmax has neither.
        by_query = any(getattr(given, "ndim", 0) > 2 for name, given in kwargs.items() if name != "position_ids")
        if not readable or by_query or not getattr(module, "is_causal", True):
            raise self._bypassed()
        states = query, key.contiguous(), value.contiguous()
        is_softmax = self._is_softmax(module, *states, attention_mask, kwargs)
        long = length >= FUSED_LENGTH.get(query.device.type, math.inf)
        fused = None
        if long and is_softmax and self._is_fused(module, *states, attention_mask, kwargs):
            fused = self._fused(module, *states, attention_mask, kwargs)
        output, received = fused or self._in_blocks(module, *states, attention_mask, kwargs)
        if self.layers is None or self.calls in self.layers:
            self.total += received.to(self.total.device)
            self.maps += heads
        self.calls += 1
        if self.calls == self.needed:
            raise LastLayerRead
        return output, None

    def _in_blocks(self, module, query, key, value, mask: BlockMask, kwargs: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """The output [batch, T, heads, size] and float32 [batch, T], its columns' sums over heads and queries."""
        batch, heads, length, _ = query.shape
        queries = None if self.all_count else self.queries.to(query.device)
        received = torch.zeros(batch, length, dtype=torch.float32, device=query.device)
        window = kwargs.get("sliding_window") or length
        elements = BLOCK_ELEMENTS["cpu" if query.device.type == "cpu" else "cuda"] // (batch * heads)
        outputs, start = [], 0
        while start < length:
            # A query looks at no later key, nor at one before its window.
            first_key = max(0, start - window + 1)
            last_key = min(length, (start // BLOCK_KEYS + 1) * BLOCK_KEYS)
            # As few blocks up to there as hold no more than their share, of like size.
            parts = math.ceil((last_key - start) / max(1, elements // (last_key - first_key)))
            end = start + math.ceil((last_key - start) / parts)
            block = query[:, :, start:end], key[:, :, first_key:last_key], value[:, :, first_key:last_key]
            place = (first_key, last_key, start, end, query.dtype, query.device)
            if self.is_softmax[module]:
                output, weights = softmax_attention(*block, *mask.masked_part(*place), *scaled_by(kwargs))
            else:
                output, weights = own_attention(module, *block, mask(*place), kwargs)
            outputs.append(output)
            if not self.include_self:
                torch.diagonal(weights[..., start - first_key :], dim1=2, dim2=3).zero_()
            if queries is not None:
                weights.masked_fill_(~queries[:, None, start:end, None], 0.0)
            received[:, first_key:last_key] += weights.sum(dim=(1, 2), dtype=torch.float32)
            start = end
        return torch.cat(outputs, dim=1), received

    def _fused(
        self, module, query, key, value, mask: BlockMask, kwargs: dict
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """As `_in_blocks`; None, and a notice, if the kernels can't be compiled here: for heads of these sizes they are
        not tried again."""
        sizes = query.shape[-1], value.shape[-1]
        if sizes in self.unfused:
            return None
        try:
            masks = mask.for_fused(self.queries.to(query.device), query.shape[1] // key.shape[1], self.include_self)
            return fused_attention(query, key, value, masks, *scaled_by(kwargs))
        except Exception as error:  # a compiler fails in many ways
            if is_out_of_memory(error):
                raise
            self.unfused.add(sizes)
            if is_first_process():
                print(f"long texts are read without fused kernels, which is slower: {one_line(error)}", flush=True)
            return None

    def _is_fused(self, module, *arguments) -> bool:
        """Whether `_fused` gives what `_in_blocks` gives, on the first long text that the layer meets."""
        if module not in self.is_fused:
            fused = self._fused(module, *arguments)
            if fused is None:
                return False
            output, received = self._in_blocks(module, *arguments)
            # What padding sees, where that is nothing, is no matter.
            real = self.real.to(output.device)
            pairs = (fused[0][real], output[real]), (fused[1], received)
            # In bfloat16 the blocks' scores are rounded to a 256th, so that single weights differ by some per cent.
            self.is_fused[module] = all(
                bool((ours.float() - theirs.float()).abs().mean() <= 0.02 * theirs.float().abs().mean())
                for ours, theirs in pairs
            )
        return self.is_fused[module]

    def _is_softmax(self, module, query, key, value, mask: BlockMask, kwargs: dict) -> bool:
        """Whether `softmax_attention` gives what the layer's own eager attention gives, on the first positions."""
        if module not in self.is_softmax:
            usual = kwargs.get("scaling") is not None and not any(kwargs.get(name) is not None for name in UNUSUAL)
            # In float32: bfloat16 rounds large scores so that weights differ by some per cent.
            first = [states[:, :, :CHECKED_POSITIONS].float() for states in (query, key, value)]
            positions = first[0].shape[2]
            place = (0, positions, 0, positions, torch.float32, query.device)
            self.is_softmax[module] = usual and all(
                bool((ours.float() - theirs.float()).abs().mean() <= 1e-5 * theirs.float().abs().mean())
                for ours, theirs in zip(
                    softmax_attention(*first, *mask.masked_part(*place), *scaled_by(kwargs)),
                    own_attention(module, *first, mask(*place), kwargs),
                    strict=True,
                )
            )
        return self.is_softmax[module]

    def _bypassed(self) -> InputError:
        kind = self.model.config.model_type
        return InputError(
            f"model type {kind}: its attention does not pass through transformers' attention interface "
            "(or is not causal, or looks into its mask), so received attention can't be read from it; use another model"
        )
