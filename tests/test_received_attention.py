"""Received attention against the slow definition: eager attention, all layers' maps, a loop over tokens."""

import gc
import math
import weakref

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, DogeConfig, GptOssConfig, MambaConfig

from tests import tiny
from utils import received_attention
from utils.errors import InputError
from utils.received_attention import ReceivedAttention

# Float32 sums of at most a few hundred weights in another order: relative rounding of some 1e-6.
RELATIVE = 1e-5


def from_maps(maps: np.ndarray, include_self: bool, counted: list[int] | None = None) -> np.ndarray:
    """The definition, term by term: maps [layers, heads, n, n] -> r [n]; `counted` are the queries that count."""
    layers, heads, count, _ = maps.shape
    received = np.zeros(count)
    for key in range(count):
        following = range(key if include_self else key + 1, count)
        queries = [query for query in following if counted is None or query in counted]
        for query in queries:
            received[key] += maps[:, :, query, key].sum(dtype=np.float64)
        received[key] /= layers * heads * max(1, len(queries))
    return received


def maps_of(model, ids: list[int]) -> np.ndarray:
    """All attention maps: [layers, heads, n, n]."""
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        return torch.cat(model(input_ids=torch.tensor([ids]), output_attentions=True).attentions).numpy()


def slow(model, ids: list[int], include_self: bool) -> np.ndarray:
    return from_maps(maps_of(model, ids), include_self)


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


def test_two_models_are_read_in_turn():
    texts = random_texts([20, 9])
    models = tiny.model("llama"), tiny.model("gpt2")
    expected = [ReceivedAttention(model).texts(texts) for model in models]
    both = [ReceivedAttention(model) for model in models]
    for _ in range(2):
        for receive, of_model in zip(both, expected, strict=True):
            for found, alone in zip(receive.texts(texts), of_model, strict=True):
                np.testing.assert_array_equal(found, alone)


def test_a_model_that_was_read_leaves_the_memory():
    model = tiny.model("llama")
    ReceivedAttention(model).texts(random_texts([20]))
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def test_a_model_that_was_read_says_that_it_needs_another_way_to_attend():
    model = tiny.model("llama")
    ReceivedAttention(model).texts(random_texts([20]))
    with pytest.raises(RuntimeError, match="set_attn_implementation gives it another"):
        model(input_ids=torch.tensor([[5, 6, 7]]))


def test_texts_without_tokens_receive_nothing():
    receive = ReceivedAttention(tiny.model("llama"))
    alone, together = receive.texts([[], []]), receive.texts([[5, 6], []])
    assert [len(received) for received in (*alone, *together)] == [0, 0, 2, 0]
    assert together[0][0] > 0


@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_some_queries_and_layers_alone_agree_with_the_slow_definition(architecture, include_self, monkeypatch):
    """In padded batches and in blocks of a few queries; queries at both ends of a text, one, and none."""
    monkeypatch.setitem(received_attention.BLOCK_ELEMENTS, "cpu", 700)
    monkeypatch.setattr(received_attention, "BLOCK_KEYS", 16)
    model = tiny.model(architecture)
    texts = random_texts([40, 3, 17, 1, 20])
    queries = [np.array(places, dtype=np.int64) for places in ([0, 9, 10, 39], [2], [5, 11], [0], [])]
    maps = [maps_of(model, ids) for ids in texts]
    depth = len(maps[0])
    for layers in (None, [0], [depth - 1], sorted({0, depth - 1})):
        receive = ReceivedAttention(model, include_self, layers)
        for counted in (queries, None):
            # Twice: a first pass does not know how many layers there are.
            for received in (receive.texts(texts, counted), receive.texts(texts, counted)):
                for text, (fast, text_maps) in enumerate(zip(received, maps, strict=True)):
                    chosen = text_maps if layers is None else text_maps[layers]
                    places = None if counted is None else counted[text].tolist()
                    expected = from_maps(chosen, include_self, places)
                    np.testing.assert_allclose(fast, expected, rtol=RELATIVE, atol=1e-9)


def test_a_pass_ends_at_the_last_layer_that_counts():
    model = tiny.model("llama")
    receive = ReceivedAttention(model, layers=[1])
    receive.texts(random_texts([5]))
    assert receive.calls == 2 < len(model.model.layers)


@pytest.mark.parametrize("layers", [None, [0, 2, 5]])
@pytest.mark.parametrize("queries", [None, [[0, 9, 19], [5]]])
def test_nothing_that_is_kept_grows_with_the_layers(queries, layers):
    model = tiny.model("llama", num_hidden_layers=6)
    receive = ReceivedAttention(model, layers=layers)
    texts, counted = random_texts([20, 12]), queries and [np.array(places) for places in queries]
    receive.texts(texts, counted)
    kept = []

    def weigh(*_):
        tensors = [found for found in gc.get_objects() if isinstance(found, torch.Tensor)]
        kept.append(sum(tensor.nbytes for tensor in tensors))

    for layer in model.model.layers:
        layer.register_forward_pre_hook(weigh)
    receive.texts(texts, counted)
    # Before the first layer there are no sums yet.
    assert len(kept) == 6 and set(kept[1:]) == {kept[1]}


@pytest.mark.parametrize(("architecture", "count"), [("llama", 3), ("qwen3_5", 1)])
def test_a_layer_that_is_not_there_is_refused(architecture, count):
    receive = ReceivedAttention(tiny.model(architecture), layers=[0, count])
    with pytest.raises(InputError, match=rf"layers=\[0, {count}\]: {count} of the model's layers attend"):
        receive.texts(random_texts([5]))


@pytest.mark.parametrize("mask_elements", [0, 2**25])
@pytest.mark.parametrize("is_softmax", [True, False])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_blocks_of_queries_change_nothing(architecture, is_softmax, mask_elements, monkeypatch):
    """Blocks of a few queries, that begin and end inside and outside sliding windows and padding."""
    model = tiny.model(architecture)
    texts = random_texts([50, 21])
    expected = [slow(model, ids, include_self=False) for ids in texts]
    monkeypatch.setitem(received_attention.BLOCK_ELEMENTS, "cpu", 700)
    monkeypatch.setattr(received_attention, "BLOCK_KEYS", 16)
    monkeypatch.setattr(received_attention, "MASK_ELEMENTS", mask_elements)
    if not is_softmax:
        monkeypatch.setattr(received_attention, "UNUSUAL", ("scaling",))
    receive = ReceivedAttention(model)
    for in_blocks, defined in zip(receive.texts(texts), expected, strict=True):
        np.testing.assert_allclose(in_blocks, defined, rtol=RELATIVE, atol=1e-9)
    assert set(receive.is_softmax.values()) == {is_softmax}


@pytest.mark.parametrize("softcap", [None, 0.5])
def test_softmax_attention_is_the_formula(softcap):
    """Grouped queries, and a mask that leaves out the keys that every query looks at."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, 5, 8, generator=generator)
    key, value = torch.randn(2, 2, 2, 9, 8, generator=generator)
    mask = torch.zeros(2, 1, 5, 9)
    mask[1, :, 2:, 4] = mask[:, :, 1, 6:] = -1e30
    output, weights = received_attention.softmax_attention(query, key, value, mask[..., 4:], 4, 0.3, softcap)
    for text in range(2):
        for head in range(6):
            head_keys, head_values = key[text, head // 3], value[text, head // 3]
            for place in range(5):
                scores = torch.tensor([0.3 * float((query[text, head, place] * one).sum()) for one in head_keys])
                if softcap:
                    scores = torch.tensor([softcap * math.tanh(float(score) / softcap) for score in scores])
                scores += mask[text, 0, place]
                powers = torch.exp(scores - scores.max())
                # Sums of eight products, and of nine weights, in float32.
                torch.testing.assert_close(weights[text, head, place], powers / powers.sum(), rtol=1e-5, atol=1e-7)
                expected = (powers / powers.sum()) @ head_values
                torch.testing.assert_close(output[text, place, head], expected, rtol=1e-5, atol=1e-6)


def test_soft_caps_matter():
    """Of tiny's Gemma 2, whose values other tests compare with the definition's."""
    (ids,) = random_texts([40])
    capped, higher = (slow(tiny.model("gemma2", attn_logit_softcapping=cap), ids, False) for cap in (1.0, 5.0))
    assert np.abs(capped - higher).max() > 0.1 * higher.max()


def test_attention_with_sinks_stays_the_models_own(monkeypatch):
    """By their argument, and by the check of the first positions alone."""
    torch.manual_seed(0)
    config = GptOssConfig(vocab_size=600, **tiny.SIZES, **tiny.GROUPED, sliding_window=8, num_local_experts=4)
    model = AutoModelForCausalLM.from_config(config).eval()
    texts = random_texts([40, 3])
    expected = [slow(model, ids, include_self=False) for ids in texts]
    for unusual in (received_attention.UNUSUAL, ()):
        monkeypatch.setattr(received_attention, "UNUSUAL", unusual)
        receive = ReceivedAttention(model)
        for received, defined in zip(receive.texts(texts), expected, strict=True):
            np.testing.assert_allclose(received, defined, rtol=RELATIVE, atol=1e-9)
        assert set(receive.is_softmax.values()) == {False}


def test_a_block_never_holds_more_than_its_share(monkeypatch):
    """The largest map is bounded, however long the text, and the maps have few shapes."""
    maps = []
    attention = received_attention.softmax_attention

    def watched(*arguments):
        output, weights = attention(*arguments)
        maps.append(weights.shape)
        return output, weights

    monkeypatch.setattr(received_attention, "softmax_attention", watched)
    monkeypatch.setitem(received_attention.BLOCK_ELEMENTS, "cpu", 10_000)
    monkeypatch.setattr(received_attention, "BLOCK_KEYS", 100)
    ReceivedAttention(tiny.model("llama")).texts(random_texts([400]))
    assert 5_000 < max(shape.numel() for shape in maps) <= 10_000
    # For each hundred keys, and for the check of the first positions: the whole blocks and the rest.
    assert len(set(maps)) <= 2 * 4 + 1 < len(maps) / 4


def test_hand_made_attention_gives_the_hand_computed_values():
    """One layer, one head, three tokens: rows (1), (1/4, 3/4), (1/2, 1/8, 3/8)."""
    maps = np.array([[[[1, 0, 0], [0.25, 0.75, 0], [0.5, 0.125, 0.375]]]])
    np.testing.assert_allclose(from_maps(maps, include_self=False), [0.375, 0.125, 0])
    np.testing.assert_allclose(from_maps(maps, include_self=True), [1.75 / 3, 0.875 / 2, 0.375])
    # The last query alone, and the middle one alone.
    np.testing.assert_allclose(from_maps(maps, False, [2]), [0.5, 0.125, 0])
    np.testing.assert_allclose(from_maps(maps, False, [1]), [0.25, 0, 0])
    np.testing.assert_allclose(from_maps(maps, True, [1]), [0.25, 0.75, 0])


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


def test_a_model_that_looks_into_its_mask_is_refused():
    config = DogeConfig(vocab_size=600, **tiny.SIZES, num_key_value_heads=2)
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(InputError, match="doge.*looks into its mask"):
        ReceivedAttention(model).texts(random_texts([5]))


@pytest.mark.parametrize(
    "look",
    [
        lambda mask: mask.dtype,
        lambda mask: mask[:, 0],
        lambda mask: ~mask,
        lambda mask: mask == 0,
        lambda mask: len(mask),
        lambda mask: mask * 2,
        lambda mask: torch.zeros(1) + mask,
        lambda mask: torch.zeros(1).masked_fill(mask, 1),
        lambda mask: torch.where(mask, 0, 1),
    ],
)
def test_a_mask_is_no_tensor(look):
    mask = received_attention.BlockMask()
    with pytest.raises(received_attention.MaskRead):
        look(mask)
    # What moves a sharded model's tensors asks this of every argument.
    assert not hasattr(mask, "to")


@pytest.mark.parametrize("error", [AttributeError, KeyError, RuntimeError, TypeError])
def test_a_fault_of_our_own_is_not_taken_for_the_models(error, monkeypatch):
    def broken(*arguments):
        raise error("softmax")

    monkeypatch.setattr(received_attention, "softmax_attention", broken)
    with pytest.raises(error, match="softmax"):
        ReceivedAttention(tiny.model("llama")).texts(random_texts([5]))


@pytest.fixture
def fused(monkeypatch) -> list[bool]:
    """Texts of 8 tokens are long, on a CPU too; collects which layers were fused."""
    monkeypatch.setitem(received_attention.FUSED_LENGTH, "cpu", 8)
    found = []
    is_layer_fused = ReceivedAttention._is_fused

    def is_fused(*arguments):
        found.append(is_layer_fused(*arguments))
        return found[-1]

    monkeypatch.setattr(ReceivedAttention, "_is_fused", is_fused)
    return found


# Torch's FlexAttention computes on a CPU what its kernels compute on a GPU.
@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma3", "qwen3", "gpt2", "deepseek_v3"])
def test_fused_attention_agrees_with_the_slow_definition(architecture, include_self, fused):
    model = tiny.model(architecture)
    texts = random_texts([40, 3, 17, 9])
    expected = [slow(model, ids, include_self) for ids in texts]
    receive = ReceivedAttention(model, include_self)
    for received in (receive.texts(texts), receive.texts(texts)):
        for found, defined in zip(received, expected, strict=True):
            np.testing.assert_allclose(found, defined, rtol=1e-4, atol=1e-8)
    assert fused and all(fused)


def test_fused_attention_counts_the_chosen_queries_alone(fused):
    model = tiny.model("llama")
    texts, queries = random_texts([40, 17]), [np.array([3, 20, 39]), np.array([0, 16])]
    found = ReceivedAttention(model).texts(texts, queries)
    assert fused and all(fused)
    received_attention.FUSED_LENGTH.pop("cpu")
    for values, in_blocks in zip(found, ReceivedAttention(model).texts(texts, queries), strict=True):
        np.testing.assert_allclose(values, in_blocks, rtol=1e-5, atol=1e-8)


def test_what_is_fused_wrong_goes_in_blocks(fused, monkeypatch):
    def faulty(*arguments):
        output, received = fused_attention(*arguments)
        return output, received * torch.linspace(0.9, 1.1, received.shape[1])

    fused_attention = received_attention.fused_attention
    monkeypatch.setattr(received_attention, "fused_attention", faulty)
    model = tiny.model("llama")
    texts = random_texts([40, 9])
    found = ReceivedAttention(model).texts(texts)
    assert fused and not any(fused)
    for values, ids in zip(found, texts, strict=True):
        np.testing.assert_allclose(values, slow(model, ids, False), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("works_for", [0, 40])
def test_kernels_that_do_not_compile_are_tried_once(works_for, fused, monkeypatch, capsys):
    """For any text, or for another length than the first."""
    lengths = []

    def without_a_kernel(query, *arguments):
        lengths.append(query.shape[2])
        if lengths[-1] != works_for:
            raise RuntimeError("No valid triton configs.\nOutOfMemoryError: out of resource: shared memory")
        return fused_attention(query, *arguments)

    fused_attention = received_attention.fused_attention
    monkeypatch.setattr(received_attention, "fused_attention", without_a_kernel)
    texts = random_texts([40, 30, 20])
    expected = [slow(tiny.model("llama"), ids, False) for ids in texts]
    receive = ReceivedAttention(tiny.model("llama"))
    for ids, defined in zip(texts, expected, strict=True):
        np.testing.assert_allclose(receive.texts([ids])[0], defined, rtol=1e-4, atol=1e-8)
    assert [length for length in lengths if length != works_for] == [30 if works_for else 40]
    said = "No valid triton configs.; OutOfMemoryError: out of resource: shared memory"
    assert capsys.readouterr().out == f"long texts are read without fused kernels, which is slower: {said}\n"
