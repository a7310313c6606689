"""Stage 4: texts + model -> checkpoints, by continual pretraining.

    python train.py --config-name train.yaml +model_dir=model_out

Several GPUs or processes: torchrun --nproc-per-node 2 train.py ...
"""

import dataclasses
import hashlib
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

from omegaconf import OmegaConf
from safetensors import SafetensorError, safe_open

from utils import artifacts, biography
from utils.arguments import build
from utils.config import boolean, dtype, file, mapping, model, optional, path, script, seed, text
from utils.errors import InputError, one_line, unwritten

RULES = {
    "model": model(),
    "dataset": file(),
    "model_dir": path(),
    "seed": seed(),
    "resume": boolean(),
    "dtype": dtype(),
    "attn_implementation": optional(text()),
    "loss_on_blanks": boolean(),
    "packing": boolean(),
    "trust_remote_code": boolean(),
    "lora": optional(mapping()),
    "quant": optional(mapping()),
    "trainer": mapping(),
}

# Of the sub-trees: what is not for the user to set.
FIXED = {
    "trainer.output_dir": "model_dir=... says it",
    "trainer.seed": "seed=... says it",
    "trainer.local_rank": "torchrun says it",
    "trainer.resume_from_checkpoint": "resume=true goes on from model_dir's last",
    "lora.task_type": "it is CAUSAL_LM",
    "lora.peft_type": "it is LORA",
    "lora.inference_mode": "such an adapter can't be trained",
}

# What a resumed run must have in common with the one that it goes on with, beside its texts, the model's weights and
# LoRA's settings: all that decides the weights that it ends with. More epochs or steps, and what is saved and logged,
# may differ.
KEPT = ("seed", "dtype", "loss_on_blanks", "packing")
KEPT_TRAINER = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "auto_find_batch_size",
    "average_tokens_across_devices",
    "optim",
    "optim_args",
    "optim_target_modules",
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "bf16",
    "fp16",
    "tf32",
    "use_liger_kernel",
    "liger_kernel_config",
    "ignore_data_skip",
    "data_seed",
    "dataloader_drop_last",
    "train_sampling_strategy",
    "accelerator_config",
    "parallelism_config",
    "fsdp",
    "fsdp_config",
    "deepspeed",
)


@script("train", RULES, writes=["model_dir"], fixed=FIXED)
def main(config):
    with artifacts.claimed("model_dir", Path(config.model_dir, "run.json")):
        train(config)


def train(config) -> None:
    """The stage itself, by a run that has model_dir for itself."""
    model_dir = Path(config.model_dir)
    record = model_dir / "run.json"
    texts = [biography.strip_tags(tagged) for tagged in biography.read_texts(config.dataset)]
    if not config.resume and any(model_dir.glob("checkpoint-*")):
        raise InputError(
            f"model_dir={model_dir}: holds checkpoints already; go on from the last with resume=true, or name another"
        )
    settings = OmegaConf.to_container(config)
    trained_on = {
        "texts_sha256": hashlib.sha256("\0".join(texts).encode("utf-8")).hexdigest(),
        # Each has a batch of its own; torchrun says how many they are.
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
    }
    resumed = read_resumed(record) if config.resume and record.is_file() else None
    checkpoint, broken = None, []
    if config.resume:
        checkpoint, broken = checkpoint_to_resume(model_dir, (resumed or trained_on)["processes"])

    # torch and transformers take seconds to import: only once the input is known to be good.
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import (
        DataCollatorForSeq2Seq,
        DataCollatorWithFlattening,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        get_scheduler,
        set_seed,
    )

    from utils import adapters, tokens
    from utils.models import check_ends, load_model, merged, weights_hash
    from utils.processes import is_main_process

    if resumed:
        check_resumed(record, resumed, settings, trained_on, {"trainer": TrainingArguments, "lora": LoraConfig})
    gpu = torch.cuda.is_available()
    of_trainer = {"use_cpu": not gpu, "dataloader_pin_memory": gpu, **settings["trainer"]}
    if of_trainer.get("fsdp") and not isinstance(of_trainer.get("fsdp_config"), str):
        of_trainer["fsdp_config"] = {"cpu_ram_efficient_loading": True, **(of_trainer.get("fsdp_config") or {})}
    arguments = build(
        TrainingArguments,
        "trainer",
        of_trainer,
        output_dir=config.model_dir,
        seed=config.seed,
    )
    if checkpoint and 0 < arguments.max_steps <= steps_done(checkpoint):
        # The Trainer would take one step more where they do not end an epoch.
        print(f"Nothing was left to do; the last checkpoint is {checkpoint}")
        return
    lora = None
    if config.lora is not None:
        adapters.check_kind(settings["lora"] | {"peft_type": "LORA"}, "lora")
        lora = build(LoraConfig, "lora", settings["lora"], task_type="CAUSAL_LM")
    quant = settings["quant"] if lora is not None else None
    if arguments.fsdp and (quant or {}).get("load_in_8bit"):
        raise InputError("trainer.fsdp: it can't shard a model in 8 bit; add quant=null")
    if arguments.fsdp and not arguments.fsdp_config.get("cpu_ram_efficient_loading"):
        raise InputError("trainer.fsdp_config: cpu_ram_efficient_loading must be true: one process reads the model")
    # With several GPUs in sight, one process would train on all of them at once, and its batch grow with their number.
    arguments._n_gpu = min(1, arguments.n_gpu)
    # LoRA's first weights are drawn below, so the seed comes first.
    set_seed(config.seed)

    # Prepare model
    tokenizer = tokens.load_tokenizer(config.model, config.trust_remote_code)
    precision = "float32" if config.dtype == "auto" and lora is None else config.dtype
    language_model = merged(
        load_model(
            config.model,
            precision,
            quant,
            config.trust_remote_code,
            place=not arguments.fsdp,
            attn_implementation=config.attn_implementation,
        )
    )
    if is_main_process():  # with FSDP no other has weights yet
        trained_on["weights_sha256"] = weights_hash(language_model)
        if resumed and resumed["weights_sha256"] != trained_on["weights_sha256"]:
            raise InputError(f"resume: model={config.model} has other weights than the run's model had ({record})")
    if lora is None:
        # An adapter's base model was frozen.
        for weight in language_model.parameters():
            weight.requires_grad_(weight.is_floating_point())
    else:
        # Without peft's prepare_model_for_kbit_training: get_peft_model freezes the base model as well; the rest (norms
        # and head in float32, forced checkpointing) makes 8 bit slower, and fails with several processes.
        try:
            language_model = get_peft_model(language_model, lora)
        except Exception as error:  # a value of another type than peft expects can raise nearly anything
            raise InputError(f"lora: {one_line(error)}") from error
        check_ends(language_model)
        # What evaluate.py loads the adapter onto; of a .gguf file peft would keep the folder alone.
        adapter = language_model.peft_config["default"]
        adapter.base_model_name_or_path = config.model
        for key, value in vars(adapter).items():
            if isinstance(value, set):  # it would be saved in another order by each process
                setattr(adapter, key, sorted(value))

    # Prepare data
    encoded = tokens.encode(tokenizer, texts, prepend_bos="tokenizer")
    tokens.check_texts(encoded, language_model, config.dataset)
    examples = []
    for plain, of_text in zip(texts, encoded, strict=True):
        # Nothing predicts the first token; some models would count it all the same in the mean over the batch.
        labels = [-100, *of_text.input_ids[1:]]
        if not config.loss_on_blanks:
            for position, (start, end) in zip(of_text.positions, of_text.offsets, strict=True):
                if plain[start:end].isspace():
                    labels[position] = -100
        examples.append({"input_ids": of_text.input_ids, "labels": labels})
    if config.packing:
        collator = DataCollatorWithFlattening()
        if is_main_process():
            check_packing(language_model.eval(), collator, examples[:2])
    else:
        tokens.pad_within(tokenizer, tokens.embedding_rows(language_model))
        if tokenizer.pad_token is None:
            raise InputError(f"model={config.model}: its tokenizer has no special token to pad with; use packing=true")
        # Pads labels with -100 by position: an end-of-text token that serves as padding keeps its loss elsewhere.
        collator = DataCollatorForSeq2Seq(tokenizer)

    class Record(TrainerCallback):
        """Says that the training begins, and records it once its first step is done."""

        announced = begun = False

        def on_train_begin(self, *_, **__):
            self.announced = True
            if is_main_process():
                count = sum(parameter.numel() for parameter in language_model.parameters() if parameter.requires_grad)
                # Half of it old and half of it new, one that is saved anew would look whole.
                for left in broken:
                    shutil.rmtree(left, ignore_errors=True)
                begin = f"from {checkpoint}" if checkpoint else "from the start"
                print(f"Training {count:,} weights on {len(texts)} texts, {begin}", flush=True)

        def on_step_end(self, *_, **__):
            if is_main_process() and not self.begun:
                artifacts.write_json(record, artifacts.record(settings) | trained_on)
            self.begun = True

    class CheckedTrainer(Trainer):
        """Stops where the loss is no number, which the Trainer would count as 0, to train on with broken weights; and
        where a checkpoint can't be saved."""

        def training_step(self, model, inputs, *rest, **named):
            loss = super().training_step(model, inputs, *rest, **named)
            if not loss.isfinite():
                step = self.state.global_step + 1
                if (inputs["labels"] == -100).all():
                    hint = "no token of its texts is to be learnt; raise trainer.per_device_train_batch_size"
                else:
                    hint = "lower trainer.learning_rate, or take dtype=float32 and trainer.bf16=false"
                raise InputError(f"the loss is not a number (NaN) at step {step}: {hint}")
            return loss

        def _save_checkpoint(self, *arguments, **options):
            try:
                super()._save_checkpoint(*arguments, **options)
            except (OSError, SafetensorError, RuntimeError) as error:  # torch's own files raise the last
                raise artifacts.NotWritten(
                    f"model_dir={model_dir}: checkpoint-{self.state.global_step} can't be saved: {one_line(error)}; "
                    "once it can, resume=true goes on from the checkpoint before"
                ) from error

    # Train
    if arguments.dataloader_drop_last and len(texts) < arguments.train_batch_size:
        raise InputError(f"trainer.dataloader_drop_last=true: {len(texts)} texts are less than a batch; leave it out")
    begins = Record()

    try:
        trainer = CheckedTrainer(
            model=language_model,
            args=arguments,
            train_dataset=Dataset.from_list(examples),
            data_collator=collator,
            processing_class=tokenizer,
            callbacks=[begins],
        )
        # The Trainer would ask for these only after the training has been announced.
        trainer.get_optimizer_cls_and_kwargs(arguments, language_model)
        unused = torch.optim.SGD([torch.zeros(1)])
        get_scheduler(arguments.lr_scheduler_type, unused, 0, 1, arguments.lr_scheduler_kwargs)
        done = trainer.train(resume_from_checkpoint=checkpoint)
    except (InputError, KeyboardInterrupt):
        if begins.announced:
            print(file=sys.stderr)  # below the progress bar
        raise
    except Exception as error:
        # Until a step is done, it is an argument that a library can't serve: one that is not installed, a file that
        # is not there, a way to attend that this machine does not have. After it, it is a fault, or a loss that is NaN.
        if begins.begun and not isinstance(error, InputError):
            raise
        if begins.announced:
            print(file=sys.stderr)  # below the progress bar
        raise InputError(unwritten(error) or f"trainer: {one_line(error)}") from error

    if not is_main_process():
        return
    last = last_checkpoint(model_dir)
    if last is not None and last == checkpoint:
        print(f"Nothing was left to do; the last checkpoint is {last}")
    else:
        saved = f"the last checkpoint is {last}" if last else "no checkpoint was saved"
        print(f"{done.global_step} steps, mean loss {done.training_loss:.3f}; {saved}")


def check_packing(language_model, collator, examples: list[dict]) -> None:
    """Raise InputError where texts laid end to end see each other: not every architecture keeps them apart."""
    import torch

    def logits(of_batch: list[dict]) -> torch.Tensor:
        batch = collator(of_batch)
        fed = {key: batch[key].to(language_model.device) for key in ("input_ids", "position_ids")}
        return language_model(**fed, use_cache=False).logits[0].float()

    with torch.inference_mode():
        packed, apart = logits(examples), torch.cat([logits([example]) for example in examples])
    # bfloat16 moves logits by less than a hundredth of their spread, other texts in sight by a tenth and more.
    if (packed - apart).abs().mean() > 0.05 * apart.std():
        raise InputError(
            f"packing: a model of type {language_model.config.model_type} mixes the texts; use packing=false"
        )


def read_resumed(record: Path) -> dict:
    """What a run's record says of what it was trained on, and how."""
    try:
        made = json.loads(record.read_text(encoding="utf-8"))
        found = {key: made[key] for key in ("config", "texts_sha256", "weights_sha256", "processes")}
        return found | {"processes": int(made["processes"])}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{record}: damaged, or of an older version; delete it to go on without comparing") from error


def check_resumed(record: Path, made: dict, settings: dict, trained_on: dict, kinds: dict) -> None:
    """Raise InputError where a run's record says that its checkpoints come of other settings, of other texts or of
    another number of processes than these. A default that is spelt out is the same setting.

    kinds: the libraries' dataclasses of the settings `trainer` and `lora`.
    """
    try:
        before = made["config"]
        pairs = {key: (settings[key], before[key]) for key in KEPT}
        for key, kept in (("trainer", KEPT_TRAINER), ("lora", None)):
            now, then = (None if of[key] is None else defaults(kinds[key]) | of[key] for of in (settings, before))
            if now is None or then is None:
                pairs[key] = settings[key], before[key]
            else:
                pairs |= {f"{key}.{name}": (now.get(name), then.get(name)) for name in kept or now | then}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{record}: damaged, or of an older version; delete it to go on without comparing") from error
    pairs["the number of processes"] = trained_on["processes"], made["processes"]
    for key, (now, then) in pairs.items():
        if now != then:
            raise InputError(f"resume: {key} is {now} now and was {then} ({record})")
    if trained_on["texts_sha256"] != made["texts_sha256"]:
        raise InputError(f"resume: {settings['dataset']} holds other texts than it did ({record})")


def defaults(kind) -> dict:
    """The values that a dataclass of settings gives to what is left out."""
    found = {}
    for field in dataclasses.fields(kind):
        if field.init:
            given = field.default is not dataclasses.MISSING
            found[field.name] = field.default if given else field.default_factory()
    return found


def checkpoint_to_resume(model_dir: Path, processes: int) -> tuple[str | None, list[Path]]:
    """The last checkpoint that is whole, and those that are not and will not be gone on from.

    Raises InputError where some were saved to their end and none is whole.
    """
    saved = saved_checkpoints(model_dir)
    broken = [left for left in model_dir.glob("checkpoint-*") if left not in saved]
    faults = []
    for candidate in saved:
        found = fault(candidate, processes)
        if found is None:
            if faults and artifacts.is_first_process():
                print(f"{'; '.join(faults)}; going on from {candidate}")
            return str(candidate), broken
        faults.append(found)
        broken.append(candidate)
    if faults:
        raise InputError(f"resume: {faults[0]}; no checkpoint before it is whole: train anew in another model_dir")
    return None, broken


def last_checkpoint(model_dir: Path) -> str | None:
    saved = saved_checkpoints(model_dir)
    return str(saved[0]) if saved else None


def saved_checkpoints(model_dir: Path) -> list[Path]:
    """The checkpoints that were saved to their end, the last one first.

    A run that is stopped while it saves leaves one without trainer_state.json, which the Trainer writes last, or with
    half of it.
    """
    found = [state.parent for state in model_dir.glob("checkpoint-*/trainer_state.json") if is_json(state)]
    steps = {int(number): path for path in found if (number := path.name.removeprefix("checkpoint-")).isdecimal()}
    return [steps[number] for number in sorted(steps, reverse=True)]


# What the Trainer goes on from, without a word where one of them is not there; DeepSpeed has it all in global_step*.
NEEDED = {
    "its weights": ("*model*.safetensors", "*model*.bin", "*model_fsdp*", "global_step*"),
    "the optimizer's state, which trainer.save_only_model leaves out": ("optimizer*", "global_step*"),
    "scheduler.pt": ("scheduler.pt", "global_step*"),
}


def fault(checkpoint: Path, processes: int) -> str | None:
    """What a checkpoint lacks, or which of its files is cut short; None where it is whole."""
    names = ["rng_state.pth"] if processes == 1 else [f"rng_state_{number}.pth" for number in range(processes)]
    for what, patterns in (NEEDED | {name: (name,) for name in names}).items():
        if not any(any(checkpoint.glob(pattern)) for pattern in patterns):
            return f"{checkpoint} lacks {what}"
    for saved in sorted(checkpoint.iterdir()):
        try:
            if saved.suffix == ".safetensors":
                with safe_open(saved, "numpy"):
                    pass
            elif saved.suffix in (".pt", ".pth", ".bin"):
                zipfile.ZipFile(saved).close()
            elif saved.suffix == ".json":
                content = json.loads(saved.read_text(encoding="utf-8"))
                for part in content["weight_map"].values() if saved.name.endswith(".index.json") else ():
                    if not (checkpoint / part).is_file():
                        return f"{checkpoint} lacks {part}"
        except (SafetensorError, zipfile.BadZipFile, ValueError):
            return f"{saved} is cut short or damaged"
    return None


def steps_done(checkpoint: str) -> int:
    return json.loads(Path(checkpoint, "trainer_state.json").read_text(encoding="utf-8"))["global_step"]


def is_json(path: Path) -> bool:
    try:
        return path.is_file() and isinstance(json.loads(path.read_text(encoding="utf-8"))["global_step"], int)
    except (OSError, ValueError, KeyError, TypeError):
        return False


if __name__ == "__main__":
    main()
