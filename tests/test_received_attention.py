"""Received attention against the slow definition: eager attention, all layers' maps, a loop over tokens."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, MambaConfig

from tests import tiny
from utils import received_attention
from utils.errors import InputError
from utils.received_attention import ReceivedAttention

# Float32 sums of at most a few hundred weights in another order: relative rounding of some 1e-6.
RELATIVE = 1e-5


def from_maps(maps: np.ndarray, include_self: bool) -> np.ndarray:
    """method.md's formula, term by term: maps [layers, heads, n, n] -> r [n]."""
    layers, heads, count, _ = maps.shape
    received = np.zeros(count)
    for key in range(count):
        queries = range(key if include_self else key + 1, count)
        for query in queries:
            received[key] += maps[:, :, query, key].sum(dtype=np.float64)
        received[key] /= layers * heads * max(1, len(queries))
    return received


def slow(model, ids: list[int], include_self: bool) -> np.ndarray:
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        maps = model(input_ids=torch.tensor([ids]), output_attentions=True).attentions
    return from_maps(torch.cat(maps).numpy(), include_self)


def random_texts(lengths: list[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 600, (length,), generator=generator).tolist() for length in lengths]


@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_agrees_with_the_slow_definition_in_padded_batches(architecture, include_self):
    model = tiny.model(architecture)
    texts = random_texts([40, 3, 17, 1, 2])
    expected = [slow(model, ids, include_self) for ids in texts]
    receive = ReceivedAttention(model, include_self)
    # The first pass goes through the whole model, later ones end at the last layer's attention.
    for received in (receive.texts(texts), receive.texts(texts)):
        for fast, defined in zip(received, expected, strict=True):
            assert fast.dtype == np.float32
            np.testing.assert_allclose(fast, defined, rtol=RELATIVE, atol=1e-9)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_blocks_of_queries_change_nothing(architecture, monkeypatch):
    """Blocks of a few queries, that begin and end inside and outside sliding windows and padding."""
    model = tiny.model(architecture)
    texts = random_texts([50, 21])
    whole = ReceivedAttention(model).texts(texts)
    monkeypatch.setattr(received_attention, "BLOCK_ELEMENTS", 700)
    for in_blocks, at_once in zip(ReceivedAttention(model).texts(texts), whole, strict=True):
        np.testing.assert_allclose(in_blocks, at_once, rtol=RELATIVE, atol=1e-9)


def test_a_block_never_holds_more_than_its_share(monkeypatch):
    """The largest map that the model's attention is asked for is bounded, however long the text."""
    from transformers.models.llama import modeling_llama

    largest = 0
    eager = modeling_llama.eager_attention_forward

    def watched(*arguments, **options):
        nonlocal largest
        output, weights = eager(*arguments, **options)
        largest = max(largest, weights.numel())
        return output, weights

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", watched)
    monkeypatch.setattr(received_attention, "BLOCK_ELEMENTS", 10_000)
    ReceivedAttention(tiny.model("llama")).texts(random_texts([400]))
    assert 5_000 < largest <= 10_000


def test_hand_made_attention_gives_the_hand_computed_values():
    """One layer, one head, three tokens: rows (1), (1/4, 3/4), (1/2, 1/8, 3/8)."""
    maps = np.array([[[[1, 0, 0], [0.25, 0.75, 0], [0.5, 0.125, 0.375]]]])
    np.testing.assert_allclose(from_maps(maps, include_self=False), [0.375, 0.125, 0])
    np.testing.assert_allclose(from_maps(maps, include_self=True), [1.75 / 3, 0.875 / 2, 0.375])


def test_known_attention_comes_out_of_a_model():
    """With queries of zero each token attends evenly: r[j] is the mean of 1/(i+1) over the queries i that follow j."""
    model = tiny.model("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.zero_()
    (received,) = ReceivedAttention(model).texts(random_texts([6]))
    expected = [np.mean([1 / (query + 1) for query in range(key + 1, 6)]) for key in range(5)] + [0]
    np.testing.assert_allclose(received, expected, rtol=RELATIVE)


def test_the_trap_two_models_differ_and_neither_is_one_over_the_position():
    """Summing over keys in place of queries gives 1/(i+1) for every model."""
    (ids,) = random_texts([30])
    (one,) = ReceivedAttention(tiny.model("llama", seed=0)).texts([ids])
    (other,) = ReceivedAttention(tiny.model("llama", seed=1)).texts([ids])
    position = 1 / np.arange(1, 31)
    for left, right in ((one, other), (one, position), (other, position)):
        assert np.abs(left - right)[:-1].max() > 0.1 * np.abs(left).max()


def test_bfloat16_sums_are_float32():
    """Hundreds of small weights summed in bfloat16 would stop growing: each is less than the sum's rounding."""
    model = tiny.model("gpt2", 600)
    exact = ReceivedAttention(model).texts(random_texts([500]))[0]
    rounded = ReceivedAttention(model.to(torch.bfloat16)).texts(random_texts([500]))[0]
    # bfloat16 keeps 8 bits: single weights are off by up to 2^-9, and random weights this large amplify that by layers.
    assert np.abs(rounded - exact).mean() < 0.1 * exact.mean()
    assert abs(rounded.sum() / exact.sum() - 1) < 0.01


@pytest.mark.parametrize("config", [BloomConfig, MambaConfig])
def test_an_architecture_that_bypasses_the_interface_is_refused(config):
    """bloom ignores the interface in silence, and mamba has no attention."""
    model = AutoModelForCausalLM.from_config(config(vocab_size=600, hidden_size=32, num_hidden_layers=2, n_head=4))
    with pytest.raises(InputError, match=config.model_type):
        ReceivedAttention(model.eval()).texts(random_texts([5]))


def test_batches_hold_every_text_once_and_no_more_tokens_than_allowed():
    lengths = [5, 90, 7, 7, 30, 1, 64, 200]
    batches = received_attention.batches(lengths, batch_tokens=128)
    assert sorted(index for batch in batches for index in batch) == list(range(8))
    for batch in batches:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= 128 or len(batch) == 1
