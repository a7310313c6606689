"""A sweep over transformers' causal architectures with tiny random models (slow): each is right, or refused.

    python -m tests.test_architectures       # prints what each one is, and the counts of docs/own-data.md: minutes

An architecture that a new version of transformers brings, or treats otherwise, fails here until it is in its place.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests import tiny
from tests.conftest import ROOT
from tests.test_answers import CHOICES, PROMPTS, one_at_a_time
from tests.test_received_attention import RELATIVE, from_maps, random_texts
from utils import answers, questions, received_attention
from utils.errors import InputError
from utils.received_attention import ReceivedAttention

# Set where a configuration has such a field.
SMALL = {
    **{"vocab_size": 600, "vocab_size_per_layer_input": 600, "max_position_embeddings": 512, "is_decoder": True},
    **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "encoder_hash_byte_group_vocab": 100},
    **{"num_hidden_layers": 3, "num_layers": 3, "num_decoder_layers": 3, "decoder_layers": 3},
    **{"hidden_size": 32, "hidden_size_global": 32, "embedding_size": 32, "intermediate_size": 48, "ffn_dim": 48},
    **{"dim_ff": 48, "decoder_ffn_dim": 48, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "dim_head": 8, "d_head": 8},
    **{"decoder_attention_heads": 4, "num_decoder_attention_heads": 4, "encoder_attention_heads": 4},
    # Multi-head latent attention.
    **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12},
    # Layers with a state.
    **{"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    **{"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_d_ssm": 64},
    **{"mamba_num_heads": 8, "mamba_head_dim": 8, "linear_head_dim": 8, "linear_num_heads": 4, "state_size": 8},
    # Experts.
    **{"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "n_shared_experts": 1},
    **{"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    # Windows and choices of keys much shorter than the texts.
    **{"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1, "window_size": 8},
    **{"attention_window_size": 8, "attention_chunk_size": 8, "local_attention": 16, "block_size": 8},
    **{"keep_window_size": 4, "rel_extent": 8, "mamba_chunk_size": 8, "chunk_size": 8},
    **{"index_topk": 4, "index_n_heads": 2, "index_head_dim": 16, "index_block_size": 4, "index_topk_blocks": 2},
}

SPECIAL = {
    "codegen": {"rotary_dim": 4},
    "cohere_compass_text": {"rope_parameters": {"full_attention": None, "sliding_attention": {"rope_theta": 10000.0}}},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8}, "ffn_config": {"ffn_hidden_size": 16}},
    "gemma3n_text": {"num_kv_shared_layers": 0, "activation_sparsity_pattern": None},
    "gptj": {"rotary_dim": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1], [["global"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "minimax_m3_vl_text": {"layer_types": ["full_attention", "minimax_m3_sparse"]},
    "qwen4_exp_text": {
        **{"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 4},
        **{"indexer_compress_ratio": 2, "ngram_vocab_size_base": 100},
    },
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [16, 32], "local_attn_chunk_length": 8},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid", "hybrid"], "num_hidden_layers": 3},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid", "hybrid"], "num_hidden_layers": 3},
    "zaya": {"num_experts_per_tok": 1},
}


def names(*groups: str) -> list[str]:
    return " ".join(groups).split()


READ_AND_ANSWERED = names("""
    afmoe apertus arcee aria_text axk1 bailing_hybrid bamba beam bert bert-generation biogpt bitnet cohere cohere2
    cohere2_moe cohere_compass_text ctrl cwm dbrx deepseek_v2 deepseek_v3 diffllama dots1 electra emu3 ernie
    ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon_h1 flex_olmo flint fuyu gemma gemma2 gemma3 gemma3_text
    gemma3n_text gemma4 gemma4_text gemma4_unified gemma4_unified_text glm glm4 glm4_moe glm4_moe_lite gpt-sw3 gpt2
    gpt_bigcode gpt_neox gpt_oss granite granite_swa granitemoe granitemoe_swa granitemoehybrid granitemoeshared
    helium hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax internlm3 iquestcoder jais2 jetmoe kimi_linear
    kolibri1 laguna lfm2 lfm2_moe lfm3 llama llama4 llama4_text longcat_flash mellum mimo_v2_flash minicpm3
    minimax_m2 ministral ministral3 mistral mixtral mllama modernbert-decoder moss_transcribe_diarize nanochat
    nemotron olmo olmo2 olmo3 olmo_hybrid olmoe opt persimmon phi phi3 phi4_multimodal phimoe qwen2 qwen2_moe qwen3
    qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next roc_bert seed_oss smollm3 solar_open
    stablelm starcoder2 vaultgemma whisper youtu zaya
""")

# Refused by save_attention.py.
NOT_READ = names(
    # Their attention does not pass through transformers' interface, as a whole or in a part.
    """
        big_bird bloom codegen cpmant falcon got_ocr2 gpt_neo gpt_neox_japanese gptj megatron-bert mpt mvp
        openai-gpt prophetnet reformer rembert roformer rwkv trocr xglm xlm xlnet
    """,
    # They make masks of their own, most of them to choose the keys that a query looks at.
    """
        axk2 bigbird_pegasus deepseek_v32 doge dots3_note_text git glm_moe_dsa hy_v4 minimax_m3_vl_text qwen4_exp
        qwen4_exp_text
    """,
    # Their keys are not the text's tokens, or their queries have biases of their own for each.
    """
        blt deepseek_v4 inkling2_text inkling_text
    """,
    # They have no attention.
    """
        falcon_mamba mamba mamba2 xlstm
    """,
)

# Refused by evaluate.py.
NOT_ANSWERED = names(
    # Their positions count the padding.
    """
        bart bigbird_pegasus blenderbot blenderbot-small git marian mbart mvp pegasus plbart trocr
    """,
    # Their positions do not begin at 0.
    """
        camembert data2vec-text roberta roberta-prelayernorm xlm-roberta xlm-roberta-xl xmod
    """,
    # Their choice of keys, or their summaries of keys, differ from the cache or with padding.
    """
        axk2 deepseek_v32 deepseek_v4 doge dots3_note_text glm_moe_dsa hy_v4 minimax_m3_vl_text
    """,
    # They lose their state where several tokens follow the cached ones, or step by other bounds (the last two).
    """
        jamba zamba nemotron_h zamba2
    """,
    # They keep what they need elsewhere than in transformers' cache, or nowhere, or can't take the padding.
    """
        blt cpmant falcon_mamba mamba mamba2 minimax moshi openai-gpt prophetnet recurrent_gemma reformer rwkv xlm
        xlnet xlstm
    """,
)

# No tiny model of them: why.
NOT_MADE = {
    "dots3_note": "settings by layer for its pictures' encoder; dots3_note_text is here",
    "gemma3n": "its pictures' encoder needs the package timm; gemma3n_text is here",
    "gemma4_assistant": "drafts on another model's keys and values",
    "gemma4_unified_assistant": "drafts on another model's keys and values",
    "musicgen": "sound, no text",
    "musicgen_melody": "sound, no text",
}
MADE = sorted({*READ_AND_ANSWERED, *NOT_READ, *NOT_ANSWERED})

# One of each kind of refusal, in the fast tests.
QUICK = ["bart", "deepseek_v4", "deepseek_v32", "inkling_text", "jamba", "minimax_m3_vl_text", "roberta", "zamba2"]


def small(config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    """A tiny configuration with a layer of each kind."""
    fields = {field.name for field in dataclasses.fields(config_class)}
    own_names = {config_class.attribute_map.get(name, name): value for name, value in SMALL.items()}
    values = {name: value for name, value in own_names.items() if name in fields}
    if "kv_lora_rank" in fields:
        values["num_key_value_heads"] = SMALL["num_attention_heads"]
    default = config_class()
    for name in config_class.sub_configs:
        if isinstance(getattr(default, name, None), PreTrainedConfig):
            values[name] = small(type(getattr(default, name)))
    if "layer_types" in fields and default.layer_types:
        kinds = list(dict.fromkeys(default.layer_types))
        if kinds == ["full_attention"] and "sliding_window" in fields:
            kinds.append("sliding_attention")
        values["layer_types"] = (kinds * 2)[: max(2, len(kinds))]
    values |= SPECIAL.get(config_class.model_type, {})
    if "layer_types" in values:
        values["num_hidden_layers"] = len(values["layer_types"])
    return config_class(**values)


def make(kind: str) -> PreTrainedModel:
    """A random model; its weights are large enough that attention is far from uniform."""
    if kind in ("bamba", "mamba2", "recurrent_gemma"):
        return tiny.model(kind)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(small(CONFIG_MAPPING[kind]), dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:  # biases, norms, attention sinks
                weight.add_(torch.randn_like(weight), alpha=0.3)
            elif "embed" not in name and "wpe" not in name:
                weight.normal_(std=0.2)
    return model.eval()


def defined(model: PreTrainedModel, ids: list[int]) -> np.ndarray:
    """Received attention by the definition, from the maps of those layers that have one."""
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        given = model(input_ids=torch.tensor([ids]), output_attentions=True, use_cache=False).attentions
    maps = [layer for layer in given if layer is not None and layer.shape[2:] == (len(ids), len(ids))]
    return from_maps(torch.cat(maps, dim=1).numpy(), include_self=False)


def check_attention(kind: str) -> None:
    """Raise InputError if the model is refused, AssertionError if a value is wrong."""
    model = make(kind)
    texts = random_texts([40, 17])
    receive = ReceivedAttention(model)
    at_once = receive.texts(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(received_attention.BLOCK_ELEMENTS, "cpu", 700)
        patch.setattr(received_attention, "BLOCK_KEYS", 16)
        in_blocks = receive.texts(texts)
    expected = [defined(model, ids) for ids in texts]
    for received in (at_once, in_blocks):
        for fast, slow in zip(received, expected, strict=True):
            # Float32 sums in another order, and a few layers below them: 3e-6 was the most.
            np.testing.assert_allclose(fast, slow, rtol=RELATIVE, atol=1e-9)
    even = np.array([np.mean([1 / (query + 1) for query in range(key + 1, 40)]) for key in range(39)])
    assert np.abs(expected[0][:-1] - even).mean() > 5e-3 * even.mean(), "attention is even: that shows nothing"


@torch.inference_mode()
def check_answers(kind: str) -> None:
    """Raise InputError if the model is refused, AssertionError if an answer or a likelihood is wrong."""
    model, tokenizer = make(kind), tiny.tokenizer()
    answers.check_cache(model, tokenizer, questions.Question("city", "Ada", PROMPTS[1], "Odense", CHOICES))

    def likelihood(prompt: str, answer: str) -> float:
        begin = len(tokenizer(prompt)["input_ids"])
        ids = torch.tensor(tokenizer(f"{prompt} {answer}")["input_ids"])
        logits = model(input_ids=ids[None], use_cache=False).logits[0, begin - 1 : -1]
        return float(logits.log_softmax(dim=1).gather(1, ids[begin:, None]).double().sum())

    # Float32 logits carry errors of about 1e-5 each, over some 20 tokens: 4e-5 was the most.
    found = answers.log_likelihoods(model, tokenizer, PROMPTS[1], CHOICES, 2)
    assert found == pytest.approx([likelihood(PROMPTS[1], answer) for answer in CHOICES], abs=1e-3)
    expected = [one_at_a_time(model, tokenizer, prompt, 8) for prompt in PROMPTS]
    likelihoods = list(map(likelihood, PROMPTS, CHOICES))
    for batch_tokens in (1, 10_000):
        answered = {}
        for batch in answers.greedy_answers(model, tokenizer, PROMPTS, CHOICES, 8, batch_tokens):
            answered |= batch
        assert [answered[index][0] for index in range(len(PROMPTS))] == expected
        assert [answered[index][1] for index in range(len(PROMPTS))] == pytest.approx(likelihoods, abs=1e-3)


def marked(kinds: list[str]) -> list:
    return [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in kinds]


def refused_if(refused: bool, message: str):
    return pytest.raises(InputError, match=message) if refused else nullcontext()


@pytest.mark.parametrize("kind", marked(MADE))
def test_received_attention_is_that_of_the_definition_or_refused(kind):
    with refused_if(kind in NOT_READ, "received attention can't be read"):
        check_attention(kind)


@pytest.mark.parametrize("kind", marked(MADE))
def test_answers_are_those_of_one_text_at_a_time_or_refused(kind):
    with refused_if(kind in NOT_ANSWERED, "gives other results with a cache"):
        check_answers(kind)


def test_every_architecture_of_transformers_has_its_place():
    assert sorted([*MADE, *NOT_MADE]) == sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert not set(READ_AND_ANSWERED) & {*NOT_READ, *NOT_ANSWERED}


@pytest.mark.parametrize("kind", sorted(answers.HIDDEN_BY_ROUNDING))
def test_types_that_are_refused_by_name_are_found_out_in_float32(kind, monkeypatch):
    monkeypatch.setattr(answers, "HIDDEN_BY_ROUNDING", frozenset())
    with pytest.raises(InputError, match="gives other results with a cache"):
        check_answers(kind)


def test_the_readme_counts_them():
    made, not_read, not_answered = map(len, (MADE, NOT_READ, NOT_ANSWERED))
    counts = (
        f"Of the {made} architectures in transformers 5.23 that `python -m tests.test_architectures` tries, as tiny "
        f"random models, stage 1 accepts {made - not_read} and stage 5 accepts {made - not_answered}; the others are "
        "refused."
    )
    assert counts in " ".join((ROOT / "docs/own-data.md").read_text(encoding="utf-8").split())


def outcome(check: Callable[[str], None], kind: str) -> bool:
    try:
        check(kind)
    except InputError:
        return False
    return True


def main() -> None:
    counts = Counter()
    for kind in MADE:
        read, answered = outcome(check_attention, kind), outcome(check_answers, kind)
        print(f"{kind}: {'read' if read else 'refused'}, {'answered' if answered else 'refused'}", flush=True)
        counts.update(read=read, answered=answered)
    print(f"Of {len(MADE)}: {counts['read']} read, {counts['answered']} answered; not made: {', '.join(NOT_MADE)}")


if __name__ == "__main__":
    main()
