"""Training on a tiny model: what carries loss, LoRA and full fine-tuning, packing, resuming, the seed."""

import json
import re
import resource
import shutil
from typing import Literal

import numpy as np
import pytest
import torch
import transformers
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

import train
from tests import tiny
from tests.test_windows import places_of_windows, slow_choice
from utils import answers, arguments, artifacts, resume
from utils.errors import InputError
from utils.models import load_model
from utils.script import CONFIG_FOLDER
from utils.tokenizer import load_tokenizer
from utils.training_examples import training_examples

TEXTS = ["<name>Ada</name> was born in <city>Lyon</city>.", "Bo       lives in    Odense.", "A much longer text, " * 8]
TRAINER = {"trainer.max_steps": 4, "trainer.logging_steps": 1, "trainer.per_device_train_batch_size": 2}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "texts.csv"
    path.write_text("text\n" + "".join(f'"{text}"\n' for text in TEXTS))
    return path


@pytest.fixture
def run(tiny_model, dataset, tmp_path):
    """Train into tmp_path / name with the YAML's defaults but for the keys that are given; returns that folder."""

    def run_training(name: str, **keys):
        keys = {"model": tiny_model, "dataset": dataset, "model_dir": tmp_path / name, **TRAINER, **keys}
        overrides = [f"{key}={value}" for key, value in keys.items() if not key.startswith("+")]
        overrides += [f"{key}={value}" for key, value in keys.items() if key.startswith("+")]
        with initialize_config_dir(str(CONFIG_FOLDER), version_base=None):
            config = compose("train", overrides)
        train.main.__wrapped__(config)
        return tmp_path / name

    return run_training


def losses(folder) -> list[float]:
    (state,) = [json.loads((last_checkpoint(folder) / "trainer_state.json").read_text())]
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def last_checkpoint(folder):
    return max(folder.glob("checkpoint-[0-9]*"), key=lambda path: int(path.name.split("-")[1]))


def adapter(folder) -> dict[str, torch.Tensor]:
    return load_file(last_checkpoint(folder) / "adapter_model.safetensors")


def trainer_of(run, monkeypatch, **keys) -> transformers.Trainer:
    """The Trainer, just before it would train."""
    trainers = []

    class Stopped(BaseException):
        pass

    def stop(trainer, **_):
        trainers.append(trainer)
        raise Stopped

    monkeypatch.setattr(transformers.Trainer, "train", stop)
    with pytest.raises(Stopped):
        run("labels", **keys)
    (trainer,) = trainers
    return trainer


def labels_of_the_texts(run, monkeypatch, **keys) -> list[tuple[str, int, int]]:
    """[(token, id, label)] of every text, as the Trainer gets them."""
    trainer = trainer_of(run, monkeypatch, **keys)
    return [
        (trainer.processing_class.decode(token), token, label)
        for example in trainer.train_dataset
        for token, label in zip(example["input_ids"], example["labels"], strict=True)
    ]


def test_the_loss_is_on_every_token(run, monkeypatch):
    found = labels_of_the_texts(run, monkeypatch)
    # But for each text's first, which nothing predicts.
    assert all(label == (-100 if piece == "<bos>" else token) for piece, token, label in found)
    assert [piece for piece, *_ in found].count("<bos>") == len(TEXTS)
    words = "".join(piece for piece, *_ in found).replace("<bos>", "")
    assert words == "".join(TEXTS).replace("<name>", "").replace("</name>", "").replace("<city>", "").replace(
        "</city>", ""
    )


def test_without_loss_on_blanks_tokens_of_spaces_alone_carry_none(run, monkeypatch):
    found = labels_of_the_texts(run, monkeypatch, loss_on_blanks="false")
    for piece, token, label in found:
        assert label == (-100 if piece.isspace() or piece == "<bos>" else token)
    assert any(piece.isspace() for piece, *_ in found)


def test_a_text_without_tokens_gives_no_example():
    """As a variant of which every token was dropped does, where the tokenizer makes nothing of white space."""
    tokenizer = tiny.ignorant_tokenizer()
    # Neither windows nor a stride; loss on blanks.
    others = None, None, True, len(tokenizer), "texts.csv"
    examples, cut = training_examples(tokenizer, ["   ", "Ada and Bo", "東京"], *others)
    assert cut == 0 and [tokenizer.decode(example["input_ids"]) for example in examples] == ["Ada and Bo"]
    for texts in (["   "], ["Ada", "東京"]):
        with pytest.raises(InputError, match="^texts.csv: no token counts in the loss: every text has at most one"):
            training_examples(tokenizer, texts, *others)


def test_padding_carries_no_loss_and_an_end_of_text_token_does():
    """With pad equal to eos, masking by the token's id would take the loss off a real end of text."""
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    collate = transformers.DataCollatorForSeq2Seq(tokenizer)
    end = tokenizer.eos_token_id
    batch = collate([{"input_ids": [5, 6, 7, end], "labels": [5, 6, 7, end]}, {"input_ids": [8], "labels": [8]}])
    assert batch["labels"].tolist() == [[5, 6, 7, end], [8, -100, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]


def test_an_architecture_that_mixes_packed_texts_is_refused(run, tmp_path):
    model = tiny.save(tmp_path / "hybrid", "qwen3_5")
    for precision in ("float32", "bfloat16"):
        with pytest.raises(InputError, match="packing: in a model of type qwen3_5_text packed texts see each other"):
            run("hybrid", model=model, dtype=precision, packing="true")


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "qwen3", "mistral"])
def test_an_architecture_that_keeps_packed_texts_apart_is_taken(run, architecture, tmp_path):
    model = tiny.save(tmp_path / architecture, architecture)
    assert losses(run("apart", model=model, dtype="bfloat16", packing="true", **{"trainer.max_steps": 1}))


def test_want_of_memory_in_the_first_step_is_no_mistake_in_an_argument(run, monkeypatch):
    """So that `script` says what to lower."""

    def step(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(transformers.Trainer, "training_step", step)
    with pytest.raises(torch.OutOfMemoryError):
        run("out")


def test_recomputing_activations_changes_no_loss(run):
    """The Trainer's key: without it none are recomputed."""
    plain, recomputed = run("plain"), run("recomputed", **{"+trainer.activation_checkpointing": "true"})
    assert losses(recomputed) == pytest.approx(losses(plain), rel=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_packing_changes_no_loss(run, architecture, tmp_path):
    model = tiny.save(tmp_path / architecture, architecture)
    # GPT-2 drops out at random in training.
    config = json.loads((model / "config.json").read_text())
    config |= {"attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0}
    (model / "config.json").write_text(json.dumps(config))
    padded = losses(run("padded", model=model, **{"trainer.bf16": "false"}))
    packed = losses(run("packed", model=model, **{"trainer.bf16": "false"}, packing="true"))
    # Sums of float32 in another order, through three layers and four updates.
    np.testing.assert_allclose(packed, padded, rtol=1e-3)


def test_the_seed_decides_and_nothing_else(run):
    one, again, other = run("one"), run("again"), run("other", seed=2)
    for name, weight in adapter(one).items():
        assert torch.equal(weight, adapter(again)[name])
    assert any(not torch.equal(weight, adapter(other)[name]) for name, weight in adapter(one).items())


def test_an_epochs_order_is_that_of_the_seed_plus_its_number(run, tmp_path, monkeypatch):
    texts = tmp_path / "ten.csv"
    texts.write_text("text\n" + "".join(f"{number}\n" for number in range(10)))
    orders, step = [], transformers.Trainer.training_step

    def noting(trainer, model, inputs, *arguments):
        orders.append(inputs["input_ids"].tolist())
        return step(trainer, model, inputs, *arguments)

    monkeypatch.setattr(transformers.Trainer, "training_step", noting)
    whole = {"dataset": texts, "trainer.max_steps": 2, "trainer.per_device_train_batch_size": 10}
    run("one", **whole)
    run("two", **whole, seed=2, lora="null")
    run("other", **whole, **{"+trainer.data_seed": 2})
    assert orders[0] != orders[1] == orders[2] != orders[3]
    assert orders[4:] == orders[2:4]


def test_resuming_ends_where_an_unbroken_run_does(run, capsys):
    every_step = {"trainer.save_strategy": "steps", "+trainer.save_steps": 1}
    unbroken = run("unbroken", **every_step)
    broken = run("broken", **every_step)
    # Stopped while it saved the third.
    (broken / "checkpoint-3" / "trainer_state.json").unlink()
    (broken / "checkpoint-4" / "trainer_state.json").write_text('{"best')
    run("broken", **every_step, resume="true")
    assert "from " + str(broken / "checkpoint-2") in capsys.readouterr().out
    for name, weight in adapter(unbroken).items():
        torch.testing.assert_close(weight, adapter(broken)[name], rtol=1e-6, atol=1e-8)


def test_other_texts_another_learning_rate_or_more_processes_are_not_resumed(run, dataset, tmp_path, monkeypatch):
    copy = shutil.copy(dataset, tmp_path / "copy.csv")
    run("first", dataset=copy)
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        with pytest.raises(InputError, match=r"resume: the number of processes is 2 now but was 1"):
            run("first", dataset=copy, resume="true")
    for key, value, then in (
        ("trainer.learning_rate", 0.1, 0.0005),
        ("trainer.bf16", False, True),
        ("trainer.warmup_steps", 2, 0.1),
        ("trainer.max_grad_norm", 0.5, 1.0),
        ("+trainer.weight_decay", 0.1, 0.0),
        ("+trainer.adam_beta2", 0.9, 0.999),
        ("dtype", "float32", "auto"),
    ):
        with pytest.raises(InputError, match=f"resume: {key.strip('+')} is {value} now but was {then} "):
            run("first", dataset=copy, resume="true", **{key: value})
    copy.write_text("text\nanother\n")
    with pytest.raises(InputError, match="copy.csv has changed since the run began"):
        run("first", dataset=copy, resume="true")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("trainer.max_grad_norm", "null", "trainer.max_grad_norm=None: must be a number"),
        ("trainer.max_steps", "inf", "trainer.max_steps=inf: must be a whole number"),
        ("trainer.learning_rate", -1, "trainer.learning_rate=-1: must not be below 0"),
        ("+trainer.adam_beta1", 1.5, "trainer.adam_beta1=1.5: must be from 0 to below 1"),
        ("lora.r", 1.5, "lora.r=1.5: must be a whole number"),
        ("+lora.task_type", "CAUSAL_LM", "lora.task_type: leave it out"),
        ("attn_implementation", "none_such", "with attn_implementation=none_such"),
    ],
)
def test_what_a_library_would_choke_on_is_named(run, key, value, message):
    with pytest.raises(InputError, match=message):
        run("odd", **{key: value})


def test_whole_numbers_may_be_written_as_fractions(run):
    folder = run("whole", **{"trainer.max_steps": "2e0", "trainer.per_device_train_batch_size": 2.0})
    assert last_checkpoint(folder).name == "checkpoint-2"


def test_a_checkpoint_without_the_optimizers_state_is_not_resumed(run):
    run("weights", **{"trainer.save_strategy": "steps", "+trainer.save_steps": 2, "+trainer.save_only_model": "true"})
    with pytest.raises(InputError, match="checkpoint-4 lacks the optimizer's state"):
        run("weights", resume="true")


def test_a_damaged_record_is_named_in_resuming(run):
    folder = run("damaged", **{"trainer.save_strategy": "steps", "+trainer.save_steps": 2})
    (folder / "run.json").write_text("{")
    with pytest.raises(InputError, match="damaged/run.json: damaged, or from an older version; delete it"):
        run("damaged", resume="true")


def test_resume_begins_where_there_is_nothing_to_resume(run):
    assert last_checkpoint(run("fresh", resume="true")).name == "checkpoint-4"


def test_checkpoints_are_not_mixed_with_those_of_another_run(run):
    folder = run("once")
    with pytest.raises(InputError, match="resume=true"):
        run("once")
    assert last_checkpoint(folder).name == "checkpoint-4"


def test_full_fine_tuning_trains_all_weights_in_float32(run, tiny_model, tmp_path):
    base = load_model(str(tiny_model), "bfloat16")
    base.save_pretrained(tmp_path / "base")
    load_tokenizer(str(tiny_model)).save_pretrained(tmp_path / "base")
    assert load_model(str(tmp_path / "base")).dtype == torch.bfloat16
    folder = run("full", lora="null", model=tmp_path / "base")
    trained = load_model(str(last_checkpoint(folder)))
    assert trained.dtype == torch.float32
    # Tokens that no text holds get no gradient, but every matrix changes somewhere.
    for (name, weight), (_, before) in zip(trained.named_parameters(), base.named_parameters(), strict=True):
        assert not torch.equal(weight, before), name
    assert load_tokenizer(str(last_checkpoint(folder)))("Lyon")["input_ids"]


@pytest.mark.parametrize("architecture", ["gpt2", "gemma3"])
def test_other_architectures_take_the_defaults(run, architecture, tmp_path):
    model = tiny.save(tmp_path / architecture, architecture)
    checkpoint = last_checkpoint(run("other", model=model))
    assert type(load_model(str(checkpoint))).__name__ == "PeftModelForCausalLM"


def test_an_adapter_finds_its_base_and_takes_another(run, tiny_model, tmp_path):
    checkpoint = last_checkpoint(run("adapted"))
    assert json.loads((checkpoint / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny_model)
    moved = tiny.save(tmp_path / "moved", "llama", seed=5)
    weights = [
        model.base_model.model.model.embed_tokens.weight
        for model in (load_model(str(checkpoint)), load_model(str(checkpoint), base=str(moved)))
    ]
    assert not torch.equal(*weights)
    # Without a tokenizer of its own it has that of the base model that it goes on.
    (checkpoint / "tokenizer_config.json").unlink()
    tiny.tokenizer(vocabulary=400).save_pretrained(moved)
    assert len(load_tokenizer(str(checkpoint))) == len(tiny.tokenizer())
    assert len(load_tokenizer(str(checkpoint), base=str(moved))) == len(tiny.tokenizer(vocabulary=400))


def test_training_goes_on_from_an_adapter(run, tiny_model):
    """The adapter becomes part of the weights under the new one, in training and when that is loaded."""
    first = last_checkpoint(run("first", **{"trainer.learning_rate": 0.05}))
    second = last_checkpoint(run("second", model=first, **{"trainer.learning_rate": 0}))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        logits = [load_model(str(folder))(input_ids=ids).logits for folder in (tiny_model, first, second)]
    torch.testing.assert_close(logits[1], logits[2], rtol=1e-4, atol=1e-4)
    assert (logits[0] - logits[1]).abs().max() > 0.1
    trained = json.loads((second / "adapter_config.json").read_text())["target_modules"]
    assert set(trained) == set(json.loads((first / "adapter_config.json").read_text())["target_modules"])


EVERY_STEP = {"trainer.save_strategy": "steps", "+trainer.save_steps": 1}

LOST_OR_CUT = {
    "lost adapter_model.safetensors": "checkpoint-4 lacks its weights",
    "lost optimizer.pt": "checkpoint-4 lacks the optimizer's state",
    "lost scheduler.pt": "checkpoint-4 lacks scheduler.pt",
    "lost rng_state.pth": "checkpoint-4 lacks rng_state.pth",
    "cut adapter_model.safetensors": "checkpoint-4/adapter_model.safetensors is cut short or damaged",
    "cut optimizer.pt": "checkpoint-4/optimizer.pt is cut short or damaged",
    "cut rng_state.pth": "checkpoint-4/rng_state.pth is cut short or damaged",
    "cut training_args.bin": "checkpoint-4/training_args.bin is cut short or damaged",
    "cut adapter_config.json": "checkpoint-4/adapter_config.json is cut short or damaged",
}


def spoil(path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def test_a_checkpoint_that_is_not_whole_is_named_and_the_one_before_it_taken(run, capsys):
    folder = run("spoilt", **EVERY_STEP)
    expected = adapter(folder)
    for how, message in LOST_OR_CUT.items():
        path = folder / "checkpoint-4" / how.split()[1]
        whole = path.read_bytes()
        if how.startswith("lost"):
            path.unlink()
        else:
            spoil(path)
        assert resume.checkpoint_to_resume(folder, 1)[0] == str(folder / "checkpoint-3")
        assert f"{folder}/{message}" in capsys.readouterr().out
        path.write_bytes(whole)
    # As under torchrun, whose processes save a state each.
    assert resume.fault(folder / "checkpoint-4", 2) == f"{folder}/checkpoint-4 lacks rng_state_0.pth"
    assert resume.checkpoint_to_resume(folder, 1)[0] == str(folder / "checkpoint-4")

    spoil(folder / "checkpoint-4/optimizer.pt")
    spoil(folder / "checkpoint-3/adapter_model.safetensors")
    (folder / "checkpoint-1/trainer_state.json").unlink()
    (folder / "checkpoint-best").mkdir()
    run("spoilt", resume="true", **EVERY_STEP)
    said = capsys.readouterr().out
    assert f"{folder}/checkpoint-1 is incomplete; " in said
    assert f"/adapter_model.safetensors is cut short or damaged; continuing from {folder}/checkpoint-2\n" in said
    assert re.search(rf"4 steps, mean loss [\d.]+ since {folder}/checkpoint-2; the last checkpoint is", said)
    for name, weight in expected.items():
        torch.testing.assert_close(weight, adapter(folder)[name], rtol=1e-6, atol=1e-8)
    assert resume.fault(last_checkpoint(folder), 1) is None
    # What a killed run had left of a checkpoint is gone.
    left = [*(f"checkpoint-{step}" for step in (2, 3, 4, "best")), "run.json"]
    assert sorted(path.name for path in folder.iterdir()) == left


def test_where_no_checkpoint_is_whole_none_is_resumed(run):
    folder = run("lost")
    for checkpoint in folder.glob("checkpoint-*"):
        (checkpoint / "optimizer.pt").unlink()
    with pytest.raises(InputError, match="checkpoint-4 lacks the optimizer's state.*: start over"):
        run("lost", resume="true", **{"trainer.max_steps": 6})


def test_a_run_that_was_stopped_in_its_first_save_begins_anew(run, capsys):
    once = {"trainer.save_strategy": "steps", "+trainer.save_steps": 4}
    folder = run("first", **once)
    (folder / "checkpoint-4/trainer_state.json").unlink()
    run("first", resume="true", **once)
    said = capsys.readouterr().out
    assert f"{folder}/checkpoint-4 is incomplete; starting over\n" in said
    assert "from the start" in said


def test_a_model_in_several_files_lacks_none(tmp_path, run):
    folder = last_checkpoint(run("parts", lora="null"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert resume.fault(folder, 1) == f"{folder} lacks model-00002-of-00002.safetensors"


@pytest.mark.parametrize("too_large", ["tokenizer.json", "adapter_model.safetensors", "optimizer.pt"])
def test_a_checkpoint_that_cannot_be_saved_is_one_line_and_the_one_before_serves(run, monkeypatch, too_large, capsys):
    step, limit = transformers.Trainer.training_step, resource.getrlimit(resource.RLIMIT_FSIZE)

    def full_in_the_third(trainer, *arguments, **options):
        if trainer.state.global_step == 2:
            size = (tmp / "checkpoint-2" / too_large).stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, limit[1]))
        return step(trainer, *arguments, **options)

    tmp = run("full", **EVERY_STEP | {"trainer.max_steps": 1})
    with monkeypatch.context() as patch:
        patch.setattr(transformers.Trainer, "training_step", full_in_the_third)
        try:
            with pytest.raises(InputError, match="/full: checkpoint-3 can't be saved: .*resume=true") as raised:
                run("full", resume="true", **EVERY_STEP)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "\n" not in str(raised.value)
    run("full", resume="true", **EVERY_STEP)
    assert f"from {tmp}/checkpoint-2" in capsys.readouterr().out
    assert sorted(path.name for path in tmp.iterdir()) == [*(f"checkpoint-{step}" for step in range(1, 5)), "run.json"]


def test_two_runs_do_not_train_in_one_folder(run, tmp_path):
    with (
        artifacts.claimed("model_dir", tmp_path / "shared/run.json"),
        pytest.raises(InputError, match="^model_dir: another run is writing .*shared/run.json; wait for it to finish"),
    ):
        run("shared", resume="true")
    assert not (tmp_path / "shared").exists()


def test_a_finished_run_takes_no_step_more(run, capsys):
    """Three texts in batches of two: two steps an epoch, and the third step ends in the middle of one."""
    folder = run("finished", **{"trainer.max_steps": 3, "trainer.save_strategy": "steps", "+trainer.save_steps": 1})
    for steps in (3, 2):
        keys = {"trainer.max_steps": steps, "trainer.save_strategy": "steps", "+trainer.save_steps": 1}
        run("finished", resume="true", **keys)
        assert f"Nothing left to do; the last checkpoint is {folder}/checkpoint-3" in capsys.readouterr().out
    assert last_checkpoint(folder).name == "checkpoint-3"


def test_what_does_not_go_with_the_checkpoints_is_not_resumed(run, capsys):
    folder = run("begun")
    before = (folder / "run.json").read_bytes()
    with pytest.raises(InputError, match="resume: lora.r is 4 now but was 16"):
        run("begun", resume="true", **{"lora.r": 4, "trainer.max_steps": 8})
    assert (folder / "run.json").read_bytes() == before
    run("begun", resume="true")
    assert "Nothing left to do; the last checkpoint is" in capsys.readouterr().out


def test_a_damaged_or_foreign_adapter_is_an_input_error(run, tmp_path):
    checkpoint = last_checkpoint(run("damaged"))
    other = tiny.save(tmp_path / "other", "gpt2")
    with pytest.raises(InputError, match="does not fit"):
        load_model(str(checkpoint), base=str(other))
    weights = checkpoint / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="or is damaged"):
        load_model(str(checkpoint))
    weights.unlink()
    with pytest.raises(InputError, match="without its weights"):
        load_model(str(checkpoint))


def test_a_misspelt_argument_of_quant_is_named_without_a_gpu_too(tiny_model):
    with pytest.raises(InputError, match="load_in_3bit"):
        load_model(str(tiny_model), quant={"load_in_3bit": True})


def test_modules_that_are_not_there_are_named(run):
    with pytest.raises(InputError, match="lora: .*nowhere"):
        run("nowhere", **{"lora.target_modules": "[nowhere]"})


@pytest.mark.parametrize("loss_on_blanks", ["true", "false"])
def test_a_long_text_is_cut_and_each_token_learnt_once(run, tmp_path, monkeypatch, loss_on_blanks):
    """In the window in which most tokens stand before it; the others feed it without loss."""
    path = tmp_path / "long.jsonl"
    plain = ["short", "one  two, three   four five " * 5]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in plain))
    keys = {"dataset": path, "window": 17, "stride": 7, "loss_on_blanks": loss_on_blanks}
    trainer = trainer_of(run, monkeypatch, **keys)
    expected, learnt = [], []
    for text in plain:
        ids = trainer.processing_class(text)["input_ids"]
        fed = places_of_windows(1, len(ids) - 1, 0, 17, 7)
        for number, places in enumerate(fed):
            labels = []
            for place in places:
                blank = trainer.processing_class.decode(ids[place]).isspace() and loss_on_blanks == "false"
                learns = place > 0 and slow_choice(place, fed, "preceding") == number
                labels.append(ids[place] if learns and not blank else -100)
            expected.append({"input_ids": [ids[place] for place in places], "labels": labels})
            learnt += [label for label in labels if label != -100]
    assert list(trainer.train_dataset) == expected and len(expected) > 5
    once = [token for text in plain for token in trainer.processing_class(text)["input_ids"][1:]]
    blanks = sum(trainer.processing_class.decode(token).isspace() for token in once)
    assert blanks and len(learnt) == len(once) - blanks * (loss_on_blanks == "false")


def test_a_text_beyond_the_context_is_cut_to_it(run, tmp_path, capsys):
    long = tmp_path / "long.csv"
    long.write_text("text\nshort\n" + "word " * 600 + "\n")
    run("long", dataset=long, **{"trainer.max_steps": 1})
    assert re.search(r"on 2 texts \(1 of more than 512 tokens: \d+ windows in all\), from", capsys.readouterr().out)
    with pytest.raises(InputError, match=r"^window=513: .* takes at most 512 tokens$"):
        run("longer", dataset=long, window=513)


def test_a_resumed_run_has_the_windows_of_before(run):
    run("out")
    with pytest.raises(InputError, match=r"^resume: window is 9 now but was None \("):
        run("out", resume="true", window=9)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("optim", "lomo", "trainer: You need to install `lomo_optim`"),
        ("lr_scheduler_type", "warmup_stable_decay", "trainer: .* missing .*'num_decay_steps'"),
    ],
)
def test_what_an_optimizer_or_a_scheduler_lacks_is_named_before_anything_is_written(run, tmp_path, key, value, message):
    with pytest.raises(InputError, match=message):
        run("lacking", **{f"trainer.{key}": value})
    assert not list(tmp_path.rglob("run.json"))


def test_tensorboard_by_a_key(run):
    folder = run("board", **{"trainer.report_to": "tensorboard"})
    assert list(folder.rglob("events.out.tfevents*"))


def test_a_processor_without_bfloat16_is_said(tiny_model, monkeypatch, capsys):
    def printed(dtype, **capabilities):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
        load_model(str(tiny_model), dtype)
        return capsys.readouterr().out

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "dtype=float32 is faster here" in printed("bfloat16", avx2=True)
    assert printed("float32", avx2=True) == ""
    assert printed("bfloat16", avx2=True, avx512_bf16=True) == ""


def test_an_adapters_base_is_trained_whole_where_all_weights_are(run, tiny_model):
    adapter = last_checkpoint(run("adapter", **{"trainer.learning_rate": 0.05}))
    trained = load_model(str(last_checkpoint(run("whole", model=adapter, lora="null"))))
    for (name, weight), (_, before) in zip(
        trained.named_parameters(), load_model(str(tiny_model)).named_parameters(), strict=True
    ):
        assert not torch.equal(weight, before), name


def in_memory(run, monkeypatch, name: str, **keys):
    """The trained model as the Trainer leaves it, and its last checkpoint."""
    trainers = []
    finish = transformers.Trainer.train

    def keep(trainer, **options):
        trainers.append(trainer)
        return finish(trainer, **options)

    monkeypatch.setattr(transformers.Trainer, "train", keep)
    folder = run(name, **keys)
    # Without the bfloat16 that the Trainer wraps around it.
    unwrapped = trainers[-1].accelerator.unwrap_model(trainers[-1].model, keep_fp32_wrapper=False)
    return unwrapped.eval(), str(last_checkpoint(folder))


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"lora": "null"},
        {"lora": "null", "dtype": "bfloat16"},
        {"+lora.use_dora": "true"},
        {"+lora.modules_to_save": "[lm_head]"},
        {"packing": "true"},
        {"trainer.bf16": "false"},
    ],
    ids=str,
)
def test_the_trained_model_and_its_checkpoint_give_the_same_likelihoods(run, monkeypatch, keys):
    model, checkpoint = in_memory(run, monkeypatch, "trained", **{"trainer.learning_rate": 0.01}, **keys)
    tokenizer = load_tokenizer(checkpoint)
    from_memory, from_file = (
        answers.log_likelihoods(one, tokenizer, "Ada was born in", ["Lyon", "Odense and Rome"], 2)
        for one in (model, load_model(checkpoint))
    )
    assert from_file == pytest.approx(from_memory, abs=1e-5)


def test_training_goes_on_from_an_adapter_as_it_is_read_back(run, monkeypatch):
    first = last_checkpoint(run("first", **{"trainer.learning_rate": 0.05}))
    model, checkpoint = in_memory(run, monkeypatch, "second", model=first, **{"trainer.learning_rate": 0.05})
    from_memory, from_file = (
        answers.log_likelihoods(one, load_tokenizer(checkpoint), "Ada was born in", ["Lyon", "Odense"], 2)
        for one in (model, load_model(checkpoint))
    )
    assert from_file == pytest.approx(from_memory, abs=1e-5)


def test_an_id_that_the_model_does_not_know_is_named_by_its_row():
    tokenizer = tiny.tokenizer()
    low, high = sorted(["The city is Odense.", "Ada was born."], key=lambda text: max(tokenizer(text)["input_ids"]))
    rows = max(tokenizer(low)["input_ids"]) + 1
    with pytest.raises(InputError, match="^data.csv: row 2: token id"):
        training_examples(tokenizer, [low, high], 64, None, True, rows, "data.csv")
    assert len(training_examples(tokenizer, [low, low], 64, None, True, rows, "data.csv")[0]) == 2


@pytest.mark.parametrize("hint", [list[str] | str | None, None | str | list[str], str | list[str] | None])
def test_an_annotation_is_described_in_one_order(hint):
    assert arguments.described(hint) == "a name or a list or null"
    assert arguments.described(Literal["a", "b"] | hint) == "one of a, b or a list or null"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("loud"), "trainer.log_level=loud: the library does not know it"),
        (ValueError("'LOUD' is not a level"), "trainer.log_level=loud: 'LOUD' is not a level"),
        # It names an argument itself, quotes two, offers a choice, or quotes none.
        (ValueError("log_level must not be 'loud'"), "trainer: log_level must not be 'loud'"),
        (ValueError("'loud' and 'tensorboard'"), "trainer: 'loud' and 'tensorboard'"),
        (ValueError("one of 'loud', 'quiet', got 5"), "trainer: one of 'loud', 'quiet', got 5"),
        (ValueError("never in ['loud', 'quiet']"), "trainer: never in ['loud', 'quiet']"),
        (ValueError("not so loud"), "trainer: not so loud"),
    ],
)
def test_the_argument_whose_value_a_library_quotes_is_named(error, message):
    given = {"log_level": "loud", "report_to": ["tensorboard"], "max_steps": 5, "run_name": ""}
    assert str(arguments.refused(error, "trainer", given)) == message


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"+lora.init_lora_weights": "pissa"}, "^lora: init_lora_weights=pissa is not supported"),
        ({"+lora.alora_invocation_tokens": "[5]"}, "^lora: LoRA with alora_invocation_tokens is not supported"),
        ({"lora.target_modules": 5}, "^lora.target_modules=5: must be a name or a list or null"),
        ({"+trainer.fp16": "true"}, "^trainer: At most one of fp16 and bf16 can be True"),
        ({"+trainer.use_liger_kernel": "true"}, "^trainer: .*liger"),
        ({"+trainer.deepspeed": "ds.json"}, "^trainer: .*deepspeed"),
        ({"+trainer.push_to_hub": "true"}, "^trainer: .*offline"),
        ({"+trainer.dataloader_persistent_workers": "true"}, "^trainer: persistent_workers option needs num_workers"),
        # Where nothing is compiled yet it takes ten seconds.
        pytest.param(
            {"attn_implementation": "flex_attention"},
            "^trainer: FlexAttention does not support backward on CPU",
            marks=pytest.mark.slow,
        ),
        (
            {"+trainer.dataloader_drop_last": "true", "trainer.per_device_train_batch_size": 4},
            "^trainer.dataloader_drop_last=true: 3 examples do not fill one batch",
        ),
    ],
    ids=str,
)
def test_what_a_library_refuses_late_leaves_nothing_behind(run, tmp_path, keys, message):
    with pytest.raises(InputError, match=message):
        run("late", **keys)
    assert not (tmp_path / "late").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"trainer.learning_rate": 1e30, "lora": "null"}, "lower trainer.learning_rate, or use dtype=float32"),
        (
            {"loss_on_blanks": "false", "trainer.per_device_train_batch_size": 1},
            "no token of the batch counts in the loss",
        ),
    ],
)
def test_a_loss_that_is_no_number_ends_the_training(run, tmp_path, keys, message):
    texts = tmp_path / "texts.csv"
    texts.write_text('text\n" "\nAda was born in Lyon.\n')
    with pytest.raises(InputError, match=rf"^the loss is not a number \(NaN\) at step \d: {message}"):
        run("diverged", dataset=texts, **{"trainer.max_steps": 9, "trainer.bf16": "false", **keys})


def test_a_fault_after_the_first_step_keeps_its_traceback(run, tmp_path, monkeypatch):
    step = transformers.Trainer.training_step

    def fail_at_the_third(trainer, *arguments, **options):
        if trainer.state.global_step == 2:
            raise RuntimeError("a fault")
        return step(trainer, *arguments, **options)

    monkeypatch.setattr(transformers.Trainer, "training_step", fail_at_the_third)
    with pytest.raises(RuntimeError, match="a fault"):
        run("fault")
    assert (tmp_path / "fault/run.json").is_file()


def test_resuming_compares_texts_and_weights_and_not_paths(run, tiny_model, dataset, tmp_path, monkeypatch, capsys):
    folder = run("moved")
    shutil.copy(dataset, tmp_path / "copy.csv")
    shutil.copytree(tiny_model, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    more = {"resume": "true", "trainer.max_steps": 6, "+trainer.gradient_accumulation_steps": 1, "+lora.bias": "none"}
    run("moved", model="copy", dataset="copy.csv", **more)
    assert last_checkpoint(folder).name == "checkpoint-6"
    other = tiny.save(tmp_path / "other", "llama", seed=5)
    with pytest.raises(InputError, match=f"resume: the weights of model={other} are not those of the run's start"):
        run("moved", model=other, **more | {"trainer.max_steps": 8})
    assert json.loads((folder / "run.json").read_text())["config"]["model"] == "copy"


def test_a_padding_token_that_the_model_has_no_row_for(run, tiny_model, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    tokenizer = load_tokenizer(str(model))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(model)
    expected = losses(run("plain", **{"trainer.bf16": "false"}))
    # Padding is masked, so it changes no loss.
    np.testing.assert_allclose(losses(run("padded", model=model, **{"trainer.bf16": "false"})), expected, rtol=1e-5)


def test_an_adapter_on_tied_ends_is_not_trained(run, tmp_path):
    model = tiny.save(tmp_path / "tied", "llama", tie_word_embeddings=True)
    for keys in ({"lora.target_modules": "[q_proj,lm_head]"}, {"+lora.modules_to_save": "[embed_tokens]"}):
        with pytest.raises(InputError, match="share their weights .*leave both out of its modules"):
            run("tied_ends", model=model, **keys)
    assert not (tmp_path / "tied_ends").exists()
    assert losses(run("all_linear", model=model))


def test_several_gpus_in_sight_of_one_process_change_no_batch(run, monkeypatch):
    """The Trainer would put the model on all of them (DataParallel), with a batch for each."""
    prepare = transformers.TrainingArguments.__post_init__

    def with_two_gpus(arguments):
        prepare(arguments)
        arguments._n_gpu = 2

    batches = []
    init = transformers.Trainer.__init__

    def started(trainer, *given, **options):
        init(trainer, *given, **options)
        batches.append((trainer.args.train_batch_size, trainer.args.n_gpu))

    monkeypatch.setattr(transformers.TrainingArguments, "__post_init__", with_two_gpus)
    monkeypatch.setattr(transformers.Trainer, "__init__", started)
    run("one", **{"trainer.num_train_epochs": 1, "trainer.max_steps": -1})
    assert batches == [(2, 1)]


def test_a_tokenizer_that_pads_on_the_left_changes_no_loss(run, tmp_path):
    """GPT-2 counts positions from the batch's first."""
    model = tiny.save(tmp_path / "gpt2", "gpt2")
    keys = {"model": model, "lora": "null", "trainer.bf16": "false", "trainer.per_device_train_batch_size": 3}
    right = losses(run("right", **keys))
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"padding_side": "left"}))
    left = run("left", **keys)
    assert losses(left) == right
    assert load_tokenizer(str(last_checkpoint(left))).padding_side == "left"


@pytest.mark.parametrize("is_decoder", [False, True])
def test_a_model_that_sees_what_it_is_to_predict_is_refused(is_decoder, run, tiny_model, tmp_path):
    sizes = {"vocab_size": 700, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.BertConfig(**sizes, intermediate_size=48, is_decoder=is_decoder)
    model = transformers.BertLMHeadModel(config)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:  # as in a trained one, attention matters
            layer.attention.output.dense.weight.normal_(std=0.5)
    folder = tmp_path / "bert"
    model.save_pretrained(folder)
    load_tokenizer(str(tiny_model)).save_pretrained(folder)
    keys = {"model": folder, "lora": "null", "trainer.max_steps": 1}
    if is_decoder:
        run("decoder", **keys)
        return
    with pytest.raises(InputError, match="type bert sees the tokens that it is to predict; .* says is_decoder: false"):
        run("encoder", **keys)
    assert not (tmp_path / "encoder/run.json").exists()
