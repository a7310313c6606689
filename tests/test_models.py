"""A model's files hold just the weights that it has, or are refused by the name of the first that does not fit."""

import json
import shutil

import accelerate
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from tests import tiny
from utils import models
from utils.answers import greedy_answers
from utils.errors import InputError
from utils.models import (
    check_finite,
    check_weights,
    load_model,
    sum_of_bytes,
    trainable,
    weights_hash,
    weights_precision,
)
from utils.received_attention import ReceivedAttention
from utils.tokenizer import load_tokenizer


@pytest.fixture
def folder(tiny_model, tmp_path):
    """A copy of the tiny model; `change` rewrites its weights, or keys of its config.json."""
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    return copy


def change(folder, weights=None, **keys) -> None:
    if weights is not None:
        path = folder / "model.safetensors"
        save_file(weights(load_file(path)), path, metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def without(part: str):
    return lambda weights: {name: weight for name, weight in weights.items() if part not in name}


WRONG = {
    "one is missing": ({"weights": without("layers.1.self_attn.q_proj")}, "lack .*model.layers.1.self_attn.q_proj"),
    "a layer is missing": ({"num_hidden_layers": 4}, "lack .*: model.layers.3.input_layernorm.weight and 8 more"),
    "the head is missing": ({"weights": without("lm_head")}, "lack .*: lm_head.weight$"),
    "a layer too many": ({"num_hidden_layers": 2}, "does not have: model.layers.2.input_layernorm.weight and 8 more"),
    "one too many": ({"weights": lambda kept: kept | {"x.weight": torch.ones(2)}}, "does not have: x.weight$"),
    "another shape": ({"weights": lambda kept: kept | {"model.norm.weight": torch.ones(7)}}, "shape .*: model.norm"),
    "another size": ({"hidden_size": 16}, "shape differs .*: lm_head.weight and 29 more"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_weights_that_do_not_fit_are_refused_by_name(kind, folder, capfd):
    changes, message = WRONG[kind]
    change(folder, **changes)
    with pytest.raises(InputError, match=f"^{folder}: .*{message}"):
        load_model(str(folder))
    # Nor does transformers print its table of them.
    assert "LOAD REPORT" not in "".join(capfd.readouterr())


def test_a_part_of_a_split_gguf_file_is_named_as_one():
    with pytest.raises(InputError, match="model.norm.weight; join the parts of a split .gguf file first"):
        report = {"missing_keys": {"model.norm.weight"}, "mismatched_keys": set(), "unexpected_keys": set()}
        check_weights("models/x-00001-of-00002.gguf", report)


def test_a_head_that_shares_the_embedding_is_not_missing(folder):
    change(folder, without("lm_head"), tie_word_embeddings=True)
    model = load_model(str(folder))
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("keys", [{"return_dict": False}, {"output_attentions": True}, {"output_hidden_states": True}])
@torch.inference_mode()
def test_what_a_call_returns_is_not_the_files_to_say(keys, folder, tiny_model):
    change(folder, **keys)
    ids = torch.tensor([[5, 6, 7]])
    plain, odd = (load_model(str(path))(input_ids=ids) for path in (tiny_model, folder))
    assert torch.equal(plain.logits, odd.logits)
    assert odd.attentions is None and odd.hidden_states is None


@pytest.fixture
def adapter(tiny_model, tmp_path):
    """The folder of an adapter on the tiny model, and a function that changes its weights."""
    from peft import LoraConfig, get_peft_model

    path = tmp_path / "adapter"
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(load_model(str(tiny_model)), lora)
    model.save_pretrained(path)

    def rewrite(weights) -> None:
        file = path / "adapter_model.safetensors"
        save_file(weights(load_file(file)), file, metadata={"format": "pt"})

    return path, rewrite


WRONG_ADAPTERS = {
    "misnamed": (
        lambda kept: {name.replace("model.model.", "model."): weight for name, weight in kept.items()},
        "the model has no module for its base_model.model.layers.0.mlp.down_proj.lora_A.weight and 41 more",
    ),
    "one is missing": (
        without("layers.2.mlp.up_proj.lora_B"),
        "it lacks base_model.model.model.layers.2.mlp.up_proj.lora_B.weight$",
    ),
    "one too many": (
        lambda kept: kept | {"base_model.model.model.layers.9.mlp.up_proj.lora_B.weight": torch.ones(48, 4)},
        "no module for its base_model.model.model.layers.9.mlp.up_proj.lora_B.weight$",
    ),
    "another shape": (
        lambda kept: {name: weight[:, :2].clone() if "lora_B" in name else weight for name, weight in kept.items()},
        "size mismatch for base_model.*lora_B",
    ),
}


@pytest.mark.parametrize("kind", WRONG_ADAPTERS)
def test_an_adapters_weights_that_do_not_fit_are_refused_by_name(kind, adapter, recwarn):
    path, rewrite = adapter
    weights, message = WRONG_ADAPTERS[kind]
    rewrite(weights)
    with pytest.raises(InputError, match=f"{path}: the adapter does not fit .*, or is damaged: .*{message}"):
        load_model(str(path))
    assert not [warning for warning in recwarn if "adapter keys" in str(warning.message)]


@pytest.mark.parametrize(("layers", "message"), [(2, "no module for its .*layers.2"), (4, "it lacks .*layers.3")])
def test_a_base_model_of_other_layers_is_refused(layers, message, adapter, tmp_path):
    path, _ = adapter
    other = tiny.save(tmp_path / "other", "llama", num_hidden_layers=layers)
    with pytest.raises(InputError, match=f"does not fit {other}, .*: .*{message}"):
        load_model(str(path), base=str(other))


def test_weights_in_8_bit_floats_are_looked_at():
    weights = torch.ones(3).to(torch.float8_e4m3fn)
    check_finite("model", [("fine", weights)])
    with pytest.raises(InputError, match="NaN or infinite.*: wrong"):
        check_finite("model", [("fine", weights), ("wrong", torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn))])


def test_a_model_that_is_too_large_is_one_line(tiny_model, monkeypatch):
    def load(**arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("utils.models.AutoModelForCausalLM.from_pretrained", load)
    with pytest.raises(InputError, match="does not fit into memory; give quant="):
        load_model(str(tiny_model))


def test_the_memory_given_for_a_device_is_kept_to(tiny_model, capsys):
    """And a model that is spread says so. Without a device_map transformers would pass over max_memory."""
    whole = sum(weight.nbytes for weight in load_model(str(tiny_model)).parameters())
    spread = load_model(str(tiny_model), placed={"device_map": None, "max_memory": {"cpu": whole * 9 // 10}})
    assert set(spread.hf_device_map.values()) == {"cpu", "disk"}
    assert capsys.readouterr().out == f"{tiny_model} is spread over cpu, disk\n"


@pytest.mark.parametrize("lora", [None, LoraConfig(target_modules="all-linear")])
def test_a_model_that_is_partly_elsewhere_is_not_trained(lora, tiny_model):
    """All weights: those elsewhere would stay as they are, in silence. With LoRA the backward pass fails."""
    places = {"model.layers.1": "disk", "model.layers.2": "cpu", "": "meta"}
    spread = load_model(str(tiny_model))
    spread.hf_device_map = places
    with pytest.raises(
        InputError, match=r"^model=tiny: not enough free memory on the GPU to train it \(a part is on the cpu\)"
    ):
        trainable(spread, lora, "tiny")


def test_a_model_on_the_cpu_beside_a_gpu_says_so(tiny_model, monkeypatch, capsys):
    monkeypatch.setattr(models.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(models.torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(models, "on_cards", lambda arguments: {"device_map": {"": "cpu"}})
    load_model(str(tiny_model))
    said = capsys.readouterr().out
    assert said == f"{tiny_model} is on the CPU, which is slow: there is not enough free memory on the GPU\n"


@pytest.mark.parametrize("elsewhere", ["cpu", "disk"])
def test_an_embedding_that_is_kept_elsewhere_is_fed_where_it_is_used(elsewhere, tiny_model, tmp_path):
    whole = load_model(str(tiny_model))
    everywhere = dict.fromkeys(
        ("model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb", "lm_head"), "cpu"
    )
    places = everywhere | {"model.embed_tokens": elsewhere}
    spread = load_model(str(tiny_model), placed={"device_map": places, "offload_folder": str(tmp_path)})
    if elsewhere == "cpu":  # what a GPU's presence would make of it
        spread = accelerate.cpu_offload(spread, execution_device=torch.device("cpu"))
    assert spread.get_input_embeddings().weight.is_meta
    tokenizer, texts = load_tokenizer(str(tiny_model)), [[5, 6, 7, 8], [9, 10]]
    asked = ["When was Ada born?", "Where?"], ["1815", "London"], 4, 4096
    assert list(greedy_answers(spread, tokenizer, *asked)) == list(greedy_answers(whole, tokenizer, *asked))
    received = [ReceivedAttention(model).texts(texts) for model in (spread, whole)]
    for found, expected in zip(*received, strict=True):
        np.testing.assert_array_equal(found, expected)


CHANGED = {
    "a base of its positions": lambda folder: change(
        folder, rope_parameters={"rope_type": "default", "rope_theta": 100.0}
    ),
    "weights beyond the first": lambda folder: change(
        folder, weights=lambda kept: kept | {"model.embed_tokens.weight": 1.5 * kept["model.embed_tokens.weight"]}
    ),
    "one value in the middle": lambda folder: change(folder, weights=with_one_value_changed),
}


def with_one_value_changed(weights):
    weight = weights["model.embed_tokens.weight"].clone()
    weight[100, 3] += 1
    return weights | {"model.embed_tokens.weight": weight}


@pytest.mark.parametrize("kind", CHANGED)
def test_a_model_is_another_if_anything_of_it_changes(kind, folder, tiny_model, monkeypatch):
    before = weights_hash(load_model(str(folder)))
    assert before == weights_hash(load_model(str(tiny_model))), "wherever it lies"
    monkeypatch.chdir(folder.parent)
    assert before == weights_hash(load_model("model"))
    CHANGED[kind](folder)
    assert weights_hash(load_model(str(folder))) != before


def test_a_base_model_that_an_adapter_was_not_trained_on_is_said(tiny_model, folder, tmp_path, monkeypatch, capsys):
    checkpoint = tmp_path / "run/checkpoint-2"
    get_peft_model(load_model(str(tiny_model)), LoraConfig(target_modules="all-linear")).save_pretrained(checkpoint)
    base = load_model(str(tiny_model))
    made = {"weights_sha256": weights_hash(base), "weights_precision": weights_precision(base)}
    (checkpoint.parent / "run.json").write_text(json.dumps(made))
    load_model(str(checkpoint))
    load_model(str(checkpoint), base=str(folder))  # the same, elsewhere
    change(folder, weights=with_one_value_changed)
    # In another precision the weights can't be compared.
    load_model(str(checkpoint), "bfloat16", base=str(folder))
    assert "trained on" not in capsys.readouterr().out
    load_model(str(checkpoint), base=str(folder))
    said = f"{checkpoint} was trained on another model than {folder} is now (run.json beside it)\n"
    assert capsys.readouterr().out == said
    # Of weights kept elsewhere nothing is known; and peft can't put an adapter on them. It tries, with files in the
    # folder where it runs.
    monkeypatch.chdir(tmp_path)
    everywhere = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    placed = {"device_map": everywhere | {"model.layers": "disk"}, "offload_folder": str(tmp_path)}
    with pytest.raises(
        InputError, match=f"checkpoint-2: peft can't put an adapter on {folder}, of which a part is kept"
    ):
        load_model(str(checkpoint), base=str(folder), placed=placed)
    assert "trained on" not in capsys.readouterr().out


def test_a_generation_config_that_can_not_be_read_is_refused(folder):
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, ')
    with pytest.raises(InputError, match=r"generation_config.json: can't be read: .*; restore it, or remove it"):
        load_model(str(folder))


@pytest.mark.parametrize("key", ["target_modules", "exclude_modules", "modules_to_save"])
def test_a_module_that_the_model_lacks_is_named(key, tiny_model):
    lora = LoraConfig(**({"target_modules": ["q_proj"]} | {key: ["k_proj", "v_prjo"]}))
    with pytest.raises(InputError, match=f"lora.{key}: the model has no module v_prjo"):
        trainable(load_model(str(tiny_model)), lora, "tiny")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.bool])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 1001])
def test_the_sum_of_bytes_is_that_of_the_definition(dtype, count):
    weight = torch.randint(0, 2, (count + 3,), generator=torch.Generator().manual_seed(0)).mul(77).to(dtype)[3:]
    content = weight.contiguous().view(torch.uint8).numpy().tobytes()
    end = len(content) // 8 * 8
    words = sum(int.from_bytes(content[at : at + 8], "little", signed=True) for at in range(0, end, 8))
    found = sum_of_bytes(weight)
    assert (found - words - sum(content[end:])) % 2**64 == 0


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_that_git_lfs_has_not_fetched_is_named(name, folder):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    load = load_tokenizer if name == "tokenizer.json" else load_model
    with pytest.raises(InputError, match=f"{name} is a pointer of Git LFS; fetch the file: git lfs pull, there$"):
        load(str(folder))


def test_an_adapter_beside_a_whole_model_is_said(tiny_model, folder, capsys):
    get_peft_model(load_model(str(tiny_model)), LoraConfig(target_modules="all-linear")).save_pretrained(folder)
    load_model(str(folder))
    assert capsys.readouterr().out == f"{folder} holds an adapter and a whole model; the adapter is used\n"
