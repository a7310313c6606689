"""Each supported kind of adapter: the checkpoint gives the trained model, and so does merging; the rest is refused."""

import json

import numpy as np
import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests import tiny
from utils import adapters, answers
from utils.errors import InputError
from utils.model_source import load_config
from utils.models import load_checkpoints, load_model, merged, trainable
from utils.received_attention import ReceivedAttention
from utils.tokenizer import load_tokenizer

PROMPT, ANSWERS = "The city where Ada was born is", ["Lyon", "a much longer answer than that", "Odense"]

LINEAR = {"target_modules": ["q_proj", "v_proj", "down_proj"]}

# What peft's defaults leave out, or have too large for a tiny model.
KINDS = {
    "ADALORA": LINEAR | {"total_step": 10},
    "BOFT": LINEAR | {"boft_block_size": 4},
    "C3A": LINEAR | {"block_size": 16},
    "FOURIERFT": LINEAR | {"n_frequency": 20},
    "HRA": LINEAR,
    "IA3": {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "LOHA": LINEAR,
    "LOKR": LINEAR | {"r": 4},
    "LORA": LINEAR,
    "MISS": LINEAR | {"r": 8},
    "OFT": LINEAR | {"r": 0, "oft_block_size": 8},
    "RANDLORA": LINEAR,
    "VERA": LINEAR,
}

# Of LoRA, as train.py takes them.
VARIANTS = {
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "not zero at first": {"init_lora_weights": False},
    "DoRA": {"use_dora": True},
    "rank-stabilized": {"use_rslora": True},
    "ranks by name": {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"v_proj": 3}},
    "some layers": {"layers_to_transform": [1]},
    "all linear layers": {"target_modules": "all-linear"},
    "biases": {"bias": "all"},
    "its own biases": {"bias": "lora_only"},
    "the head besides": {"modules_to_save": ["lm_head"]},
    "the embedding besides": {"modules_to_save": ["embed_tokens"]},
    "LoRA on the head": {"target_modules": ["q_proj", "lm_head"]},
    "some tokens besides": {"trainable_token_indices": [5, 6]},
}


def configuration(kind: str, **options):
    return peft.PEFT_TYPE_TO_CONFIG_MAPPING[kind](task_type="CAUSAL_LM", **options)


def likelihoods(model) -> list[float]:
    return answers.log_likelihoods(model, tiny.tokenizer(), PROMPT, ANSWERS, 2)


def trained(base: str, configuration):
    """The base model with a new adapter that changes it much: far from its start, and after three steps."""
    torch.manual_seed(3)
    model = get_peft_model(load_model(base), configuration)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.2 * torch.randn_like(weight))
    ids = torch.tensor([tiny.tokenizer()(f"{PROMPT} {answer}")["input_ids"][:10] for answer in ANSWERS])
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.3)
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def check_read_back(model, base: str, folder) -> None:
    expected = likelihoods(model)
    assert max(abs(one - other) for one, other in zip(expected, likelihoods(load_model(base)), strict=True)) > 0.01
    model.save_pretrained(folder)
    torch.manual_seed(77)  # what is drawn while loading is not what the adapter was trained with
    again = load_model(str(folder), base=base)
    assert likelihoods(again) == pytest.approx(expected, abs=1e-5)
    # Two checkpoints of one run, on one base model.
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.2 * torch.randn_like(weight))
    later, expected_later = f"{folder}-later", likelihoods(model)
    assert max(abs(one - other) for one, other in zip(expected, expected_later, strict=True)) > 0.01
    model.save_pretrained(later)
    in_turn = [likelihoods(loaded) for _, loaded in load_checkpoints([str(folder), later, str(folder)], base)]
    for found, alone in zip(in_turn, (expected, expected_later, expected), strict=True):
        assert found == pytest.approx(alone, abs=1e-5)
    # Other sums of float32, of some ten tokens.
    assert likelihoods(merged(again)) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("kind", adapters.KINDS)
def test_a_checkpoint_of_each_kind_gives_the_trained_model(kind, tiny_model, tmp_path):
    base = str(tiny_model)
    check_read_back(trained(base, configuration(kind, **KINDS[kind])), base, tmp_path / "adapter")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_checkpoint_of_each_variant_of_lora_gives_the_trained_model(variant, tmp_path):
    base = str(tiny.save(tmp_path / "base", "qwen2"))  # which has biases
    options = LINEAR | {"r": 8} | VARIANTS[variant]
    check_read_back(trained(base, LoraConfig(task_type="CAUSAL_LM", **options)), base, tmp_path / "adapter")


@pytest.mark.parametrize("architecture", ["gpt2", "gemma3", "deepseek_v3", "qwen3_5"])
def test_a_checkpoint_gives_the_trained_model_on_other_architectures(architecture, tmp_path):
    base = str(tiny.save(tmp_path / "base", architecture))
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
    check_read_back(trained(base, lora), base, tmp_path / "adapter")


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "ADAPTION_PROMPT", "VBLORA", "XLORA"])
def test_other_kinds_are_refused_by_name(kind, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
    # In every stage: the third asks for the tokenizer alone.
    for load in (load_tokenizer, load_model):
        with pytest.raises(InputError, match=f"adapter_config.json: peft's {kind} is not supported; these are: .*LORA"):
            load(str(tmp_path))


@pytest.mark.parametrize("initialisation", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "eva"])
def test_initialisations_that_rewrite_the_base_are_refused(initialisation, tmp_path):
    adapter = {"peft_type": "LORA", "init_lora_weights": initialisation}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(InputError, match=f"init_lora_weights={initialisation} is not supported.*true, false, gaussian"):
        load_tokenizer(str(tmp_path))


def test_pissa_that_was_converted_while_saving_is_read(tiny_model, tmp_path):
    """peft's own way: the adapter is then an ordinary one of twice the rank, on the base model as it was."""
    base = str(tiny_model)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights="pissa", **LINEAR)
    first = get_peft_model(load_model(base), lora)
    first.peft_config["default"].init_lora_weights = True  # as peft documents it
    first.save_pretrained(tmp_path / "initial")
    model = trained(base, LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights="pissa", **LINEAR))
    expected = likelihoods(model)
    folder = tmp_path / "converted"
    model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
    # The base model's weights minus and plus the same product: sums of float32 in another order.
    assert likelihoods(load_model(str(folder))) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("argument", ["alora_invocation_tokens", "layer_replication", "use_qalora"])
def test_arguments_that_make_something_else_of_lora_are_refused(argument):
    values = {"alora_invocation_tokens": [5, 6], "layer_replication": [[0, 2], [1, 3]], "use_qalora": True}
    with pytest.raises(InputError, match=f"lora: LoRA with {argument} is not supported"):
        adapters.check_kind({"peft_type": "LORA", argument: values[argument]}, "lora")


ON_ONE_END = [{"target_modules": ["embed_tokens"]}, {"target_modules": ["lm_head"]}, {"modules_to_save": ["lm_head"]}]


@pytest.mark.parametrize("options", [*ON_ONE_END, {"trainable_token_indices": [5]}])
def test_adapters_on_tied_ends_are_refused(options, tmp_path):
    base = tiny.save(tmp_path / "base", "llama", tie_word_embeddings=True)
    model = load_model(str(base))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **LINEAR | options))
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(InputError, match="adapter: the embedding and the vocabulary head .* share their weights"):
        load_model(str(tmp_path / "adapter"), base=str(base))


def test_an_adapter_that_cannot_be_merged_is_an_input_error(tiny_model, tmp_path):
    model = trained(str(tiny_model), LoraConfig(task_type="CAUSAL_LM", lora_bias=True, **LINEAR))
    model.save_pretrained(tmp_path)
    again = load_model(str(tmp_path))
    assert likelihoods(again) == pytest.approx(likelihoods(model), abs=1e-5)
    with pytest.raises(InputError, match="can't be merged into its base model: .*lora_bias"):
        merged(again)


@pytest.mark.parametrize("kind", ["LORA", "IA3", "LN_TUNING", "OFT"])
def test_attention_is_read_with_the_adapter(kind, tiny_model, tmp_path):
    base = str(tiny_model)
    trained(base, configuration(kind, **KINDS[kind])).save_pretrained(tmp_path)
    ids = [tiny.tokenizer()(f"{PROMPT} {answer}")["input_ids"] for answer in ANSWERS]
    adapted, whole, plain = (
        np.concatenate(ReceivedAttention(model).texts(ids))
        for model in (load_model(str(tmp_path)), merged(load_model(str(tmp_path))), load_model(base))
    )
    # The same weights, as one product or two: sums of float32.
    np.testing.assert_allclose(adapted, whole, rtol=1e-4, atol=1e-7)
    assert np.abs(adapted - plain).max() > 1e-3


def test_an_adapters_configuration_is_its_base_models(tiny_model, tmp_path):
    def adapter_on(base: str | None) -> str:
        folder = tmp_path / str(base).replace("/", "-")
        folder.mkdir()
        config = {"peft_type": "LORA", "base_model_name_or_path": base}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return str(folder)

    assert load_config(adapter_on(str(tiny_model))).to_dict() == load_config(str(tiny_model)).to_dict()
    lost = adapter_on("organisation/lost")
    with pytest.raises(InputError, match=f"^the base model of the adapter {lost}: .*model=organisation/lost"):
        load_config(lost)
    with pytest.raises(InputError, match="^model=organisation/lost"):
        load_config("organisation/lost")
    with pytest.raises(InputError, match="names no base model"):
        load_config(adapter_on(None))


def test_an_adapters_modules_are_saved_in_one_order(tiny_model):
    """peft keeps them in a set, which each process puts in an order of its own."""
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules=["v_proj", "q_proj", "up_proj", "down_proj", "o_proj"])
    adapted = trainable(load_model(str(tiny_model)), lora, "base")
    saved = adapted.peft_config["default"].to_dict()["target_modules"]
    assert saved == ["down_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def test_adapters_of_one_configuration_share_their_base_model(tiny_model, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr("utils.models.load_model", lambda model, *given, **options: loaded.append(model) or load(model))
    load = load_model
    for name, r in (("first", 8), ("second", 8), ("third", 4)):
        trained(str(tiny_model), configuration("LORA", **LINEAR, r=r)).save_pretrained(tmp_path / name)
    folders = [str(tmp_path / name) for name in ("first", "second", "third")]
    assert [folder for folder, _ in load_checkpoints(folders, str(tiny_model))] == folders
    assert loaded.count(str(tiny_model)) == 2
