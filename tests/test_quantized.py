"""Quantized training on a processor: it falls, resumes, runs in two processes, and computes as a GPU would, not in
float32; what does not go together is one line."""

import json
import shutil
import statistics
from functools import partial
from types import SimpleNamespace

import bitsandbytes
import pytest
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizer_bnb_8bit import Bnb8BitHfQuantizer

from tests.conftest import ROOT
from tests.test_processes import TORCHRUN
from utils import models
from utils.attention_dump import read_dump
from utils.errors import InputError
from utils.models import load_model, weight_bytes

TRAIN = "-m tests.quantized train trainer.max_steps=3 trainer.logging_steps=1 trainer.per_device_train_batch_size=2"


@pytest.fixture(autouse=True)
def on_this_processor(monkeypatch):
    """Without a GPU `quant` would be left out."""
    monkeypatch.setattr(models, "can_quantize", lambda: True)


@pytest.fixture(scope="module")
def clone(workplace):
    shutil.copytree(ROOT / "tests", workplace / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    return workplace


def losses(folder) -> list[float]:
    (state,) = folder.glob("checkpoint-3/trainer_state.json")
    return [entry["loss"] for entry in json.loads(state.read_text())["log_history"] if "loss" in entry]


@pytest.mark.parametrize("bits", [8, pytest.param(4, marks=pytest.mark.slow)])
def test_two_processes_train_on_a_quantized_base_model(bits, run, clone, tiny_model):
    """With reentrant checkpointing, which peft's preparation forces, the first backward pass would fail."""
    in_4 = "quant.load_in_8bit=false +quant.load_in_4bit=true"
    keys = f"model={tiny_model} {in_4 if bits == 4 else ''}"
    alone = run(f"python {TRAIN} {keys} model_dir=alone-{bits} trainer.per_device_train_batch_size=4")
    assert "quant is left out" not in alone.stdout
    run(f"{TORCHRUN} {TRAIN} {keys} model_dir=shared-{bits}")
    found = losses(clone / f"alone-{bits}"), losses(clone / f"shared-{bits}")
    assert found[0][-1] < found[0][0]
    # The same texts a step; bfloat16, in sums of another order.
    assert found[1] == pytest.approx(found[0], rel=0.02)


def test_8_bit_is_computed_in_bfloat16(tiny_model):
    """Not in float32, to which peft's preparation would bring the norms, and by them all that follows."""
    model = load_model(str(tiny_model), "bfloat16", {"load_in_8bit": True})
    assert isinstance(model.model.layers[0].mlp.up_proj, bitsandbytes.nn.Linear8bitLt)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    seen = set()
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear8bitLt):
            module.register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].dtype))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=ids, labels=ids).loss.backward()
    assert seen == {torch.bfloat16}
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained and all("lora_" in name for name in trained)


def test_8_bit_in_bfloat16_has_the_losses_of_peft_preparation_in_float32(tiny_model):
    """Left out, it changes how the backward pass is computed and not, but for rounding, what is learnt."""
    found = []
    for prepare in (lambda model: model, partial(prepare_model_for_kbit_training, use_gradient_checkpointing=False)):
        torch.manual_seed(0)
        model = prepare(load_model(str(tiny_model), "bfloat16", {"load_in_8bit": True}))
        model = models.trainable(model, LoraConfig(target_modules="all-linear"), "tiny")
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        texts = torch.randint(3, 600, (8, 4, 12), generator=torch.Generator().manual_seed(0))
        found.append([])
        for ids in [*texts, *texts, *texts]:
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found[-1].append(loss.item())
    ours, prepared = found
    assert statistics.mean(ours[-8:]) < statistics.mean(ours[:8]) - 0.1
    # bfloat16 has 8 bits.
    assert ours == pytest.approx(prepared, rel=0.01)


def test_fsdp_and_8_bit_are_one_line(run, clone, tiny_model):
    done = run(f"python {TRAIN} model={tiny_model} model_dir=sharded +trainer.fsdp=true", code=2)
    assert done.stderr.splitlines()[-1] == "train.py: trainer.fsdp: it can't shard a model in 8 bit; add quant=null"


def test_without_bitsandbytes_it_is_one_line(tiny_model, monkeypatch):
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match="quant: needs bitsandbytes: pip install -r requirements-gpu.txt; or .*quant=null"
    ):
        load_model(str(tiny_model), "bfloat16", {"load_in_8bit": True})


def test_a_dump_says_that_its_model_was_quantized(run, clone, tiny_model):
    save = "python -m tests.quantized save_attention dataset=data/biography_real.csv"
    run(f"{save} model={tiny_model} save_name=in_8 quant={{load_in_8bit:true}}")
    run(f"{save} model={tiny_model} save_name=whole")
    done = run("python contrast_attention.py attn_dump_large=whole attn_dump_small=in_8 attn_diff=whole_minus_in_8")
    assert "quantized differently: None (large), {'load_in_8bit': True} (small)" in done.stdout
    # One that was saved so brings its own; a list in quant is a list.
    model = load_model(str(tiny_model), quant={"load_in_8bit": True, "llm_int8_skip_modules": ["lm_head"]})
    shutil.copytree(tiny_model, clone / "saved_in_8")
    model.save_pretrained(clone / "saved_in_8")
    run(f"{save} model=saved_in_8 save_name=saved")
    assert read_dump(clone / "saved").settings["quant"] == {"quant_method": "bitsandbytes"}
    skipping = "quant={load_in_8bit:true,llm_int8_skip_modules:[lm_head]}"
    run(f"{save} model={tiny_model} save_name=skipping {skipping}")
    quant = read_dump(clone / "skipping").settings["quant"]
    assert quant == {"load_in_8bit": True, "llm_int8_skip_modules": ["lm_head"]}


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_the_weights_size_is_known_before_they_are_loaded(dtype, tiny_model, tmp_path):
    arguments = {"pretrained_model_name_or_path": str(tiny_model), "dtype": dtype, "trust_remote_code": False}
    model = load_model(str(tiny_model), dtype)
    assert weight_bytes(arguments) == sum(weight.nbytes for weight in model.parameters())
    in_8_bit = arguments | {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    elements = sum(weight.numel() for weight in model.parameters())
    assert weight_bytes(in_8_bit) < 1.2 * elements
    # One that was saved quantized says so itself.
    for quant, size in (
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 0.6),
        ({"quant_method": "gptq", "bits": 4}, 0.6),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 1.1),
        ({"quant_method": "fp8"}, arguments_size := weight_bytes(arguments) / elements),
        (None, arguments_size),
    ):
        folder = shutil.copytree(tiny_model, tmp_path / str(len(list(tmp_path.iterdir()))))
        config = json.loads((folder / "config.json").read_text()) | {"quantization_config": quant}
        (folder / "config.json").write_text(json.dumps(config))
        saved = arguments | {"pretrained_model_name_or_path": str(folder)}
        assert weight_bytes(saved) == pytest.approx(size * elements)
        # transformers then leaves the argument out.
        if quant and "load_in_8bit" in quant:
            in_4_bit = saved | {"quantization_config": BitsAndBytesConfig(load_in_4bit=True)}
            assert weight_bytes(in_4_bit) == weight_bytes(saved)


@pytest.mark.parametrize(
    ("count", "launched", "shares"),
    [
        (1, 1, [[0]]),
        (4, 1, [[0, 1, 2, 3]]),
        (8, 4, [[0, 4], [1, 5], [2, 6], [3, 7]]),
        (4, 4, [[0], [1], [2], [3]]),
        (3, 2, [[0, 2], [1]]),
    ],
)
def test_a_model_goes_to_its_process_gpu_if_it_fits_there_else_to_its_share(
    count, launched, shares, tiny_model, monkeypatch
):
    looked_at = []

    def room_on(device: int) -> int:
        looked_at.append(device)
        return room

    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(models, "local_processes", lambda: launched)
    monkeypatch.setattr(models, "room_on", room_on)
    monkeypatch.setattr(models.psutil, "virtual_memory", lambda: SimpleNamespace(available=5))
    arguments = {"pretrained_model_name_or_path": str(tiny_model), "dtype": "auto", "trust_remote_code": False}
    for process, share in enumerate(shares):
        monkeypatch.setattr(models, "processes", lambda place=process: SimpleNamespace(local_process_index=place))
        room = 10**9
        assert models.on_cards(arguments) == {"device_map": {"": process}}
        assert looked_at == [process]  # on any other GPU it would take memory
        room = 10**4
        memory = dict.fromkeys(share, room) | {"cpu": 5}
        assert models.on_cards(arguments) == {"device_map": "auto", "max_memory": memory}
        looked_at.clear()


def test_more_processes_than_gpus_are_one_line(tiny_model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(models, "local_processes", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for options in ({}, {"place": False}, {"placed": {"device_map": "auto"}}):
        with pytest.raises(InputError, match="^2 processes, but GPUs: 1; torchrun --nproc-per-node 1$"):
            load_model(str(tiny_model), **options)


def test_several_processes_are_not_told_where_a_model_goes(tiny_model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(models, "local_processes", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for placed, keys in (
        ({"device_map": "auto", "max_memory": None}, "device_map"),
        ({"device_map": None, "max_memory": {0: "1GB"}}, "max_memory"),
    ):
        with pytest.raises(InputError, match=f"^{keys}: leave out with several processes; each has its share"):
            load_model(str(tiny_model), placed=placed)


@pytest.mark.parametrize(
    ("quantizer_class", "quant"),
    [(Bnb8BitHfQuantizer, {"load_in_8bit": True}), (Bnb4BitHfQuantizer, {"load_in_4bit": True})],
)
def test_a_quantized_model_that_does_not_fit_on_the_gpu_says_what_does(quantizer_class, quant, tiny_model, monkeypatch):
    quantizer = quantizer_class(BitsAndBytesConfig(**quant))

    def load(**arguments):
        quantizer.validate_environment(device_map={"model": 0, "lm_head": "cpu"})

    monkeypatch.setattr("utils.models.AutoModelForCausalLM.from_pretrained", load)
    with pytest.raises(
        InputError, match=r"quantized, it does not fit on the GPU: use 4 bit \(quant={load_in_4bit: true}\) if"
    ):
        load_model(str(tiny_model), quant=quant)


def test_room_on_a_gpu_counts_what_torch_keeps_unused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (600, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    assert models.room_on(0) == 720
