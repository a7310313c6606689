"""Softmax attention and its columns' sums by FlexAttention, which compiles kernels for a GPU: no block of the weights
is ever written to its memory.

    sum over queries i of A[i, j] = exp(logsumexp over i of (s[i, j] - lse[i]))

where s are the scaled scores (capped, where the model caps them) and lse[i] = logsumexp over j of s[i, j], which
attention's kernel has anyway. So the sums are the log-sum-exp of a second attention, in which keys and queries change
places.
"""

import functools
from collections.abc import Callable

import torch
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention

Rule = Callable[..., torch.Tensor]
"""As FlexAttention has it: (batch, head, query, key), indices each, to whether the query looks at the key."""

VALUE_SIZE = 16
"""Of the second attention's values, which nothing reads: the smallest that the kernels take."""


def block_masks(looks: Rule, counted: torch.Tensor, groups: int, include_self: bool) -> tuple[BlockMask, BlockMask]:
    """Of the attention, and of the second one, from keys to the queries of a key head's `groups` heads, concatenated.

    counted: bool [batch, T], which queries count.
    """
    batch, length = counted.shape

    def looked_at(of, head, key, index):
        query = index % length
        follows = query >= key if include_self else query > key
        return looks(of, head, query, key) & follows & counted[of, query]

    # Compiled, the rules are never spread out over all pairs of positions.
    make = compiled(create_block_mask, counted.device.type)
    options = {"B": batch, "H": None, "device": counted.device}
    forward = make(looks, Q_LEN=length, KV_LEN=length, **options)
    return forward, make(looked_at, Q_LEN=length, KV_LEN=groups * length, **options)


def fused_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    masks: tuple[BlockMask, BlockMask],
    scaling: float,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output [batch, T, heads, size] and float32 [batch, T]: what each key receives, summed over heads and the
    queries that count; from [batch, heads, T, size] and twice [batch, key heads, T, size]. softcap: scores are
    softcap * tanh(score / softcap)."""
    attend = compiled(flex_attention, query.device.type)
    (batch, heads, _, size), key_heads = query.shape, key.shape[1]
    options = {"scale": scaling, "return_aux": AuxRequest(lse=True)}

    def capped(score, *_):
        return score if softcap is None else softcap * torch.tanh(score / softcap)

    output, aux = attend(
        query, key, value, score_mod=capped, block_mask=masks[0], enable_gqa=heads != key_heads, **options
    )
    grouped = query.reshape(batch, key_heads, -1, size)
    lse = aux.lse.reshape(batch, key_heads, -1)
    unused = value.new_zeros(*grouped.shape[:3], VALUE_SIZE)

    def share(score, of, head, key, index):
        return capped(score) - lse[of, head, index]

    _, aux = attend(key, grouped, unused, score_mod=share, block_mask=masks[1], **options)
    # A key that nobody looks at has a sum of exp(-inf).
    return output.transpose(1, 2), aux.lse.exp().sum(dim=1)


@functools.cache
def compiled(function: Callable, device: str) -> Callable:
    """On a processor the function as it is: then it holds all weights, which is for tests."""
    if device == "cpu":
        return function
    # Each kind of layer has kernels of its own, and so has a text alone beside several. Past torch's limit of eight it
    # would go on without compilation, in silence.
    torch._dynamo.config.recompile_limit = 64
    # A soft cap is part of a kernel: made a variable, as the second value of one would be, it can't be compiled.
    torch._dynamo.config.specialize_float = True
    return torch.compile(function)
