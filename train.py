"""Stage 4: texts + model -> checkpoints, by continual pretraining.

    python train.py --config-name train.yaml +model_dir=model_out

Several GPUs or processes: torchrun --nproc-per-node 2 train.py ...
"""

import hashlib
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from safetensors import SafetensorError

from utils import artifacts, biography, next_stage, resume, rules, windows
from utils.arguments import build
from utils.errors import InputError, one_line, unwritten
from utils.script import script

RULES = {
    "model": rules.model(),
    "dataset": rules.file(or_folder=True),
    "text_column": rules.text(),
    "tags": rules.one_of("auto", True, False),
    "model_dir": rules.path(),
    "seed": rules.seed(),
    "resume": rules.boolean(),
    "dtype": rules.dtype(),
    "attn_implementation": rules.optional(rules.text()),
    "loss_on_blanks": rules.boolean(),
    "packing": rules.boolean(),
    "window": rules.optional(rules.integer(2)),
    "stride": rules.optional(rules.integer(1)),
    "trust_remote_code": rules.boolean(),
    "lora": rules.optional(rules.mapping()),
    "quant": rules.optional(rules.mapping()),
    "trainer": rules.mapping(),
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


@script("train", RULES, writes=["model_dir"], fixed=FIXED)
def main(config):
    started = time.monotonic()
    windows.check_stride(config)
    with artifacts.claimed("model_dir", Path(config.model_dir, "run.json")):
        train(config)
    if last := resume.last_checkpoint(Path(config.model_dir)):
        next_stage.say(started, "evaluate", model_dir=str(last))
    else:
        next_stage.say(started)


def train(config) -> None:
    """The stage itself, by a run that has model_dir for itself."""
    model_dir = Path(config.model_dir)
    record = model_dir / "run.json"
    texts = [plain for plain, _ in biography.read(config.dataset, config.text_column, config.tags)]
    if not config.resume and any(model_dir.glob("checkpoint-*")):
        raise InputError(
            f"model_dir={model_dir}: already holds checkpoints; continue with resume=true, or use another folder"
        )
    settings = OmegaConf.to_container(config)
    trained_on = {
        "texts_sha256": hashlib.sha256("\0".join(texts).encode("utf-8")).hexdigest(),
        # Each has a batch of its own; torchrun says how many they are.
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
    }
    resumed = resume.read_resumed(record) if config.resume and record.is_file() else None
    checkpoint, broken = None, []
    if config.resume:
        checkpoint, broken = resume.checkpoint_to_resume(model_dir, (resumed or trained_on)["processes"])

    # torch and transformers take seconds to import: only once the input is known to be good.
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import (
        DataCollatorForSeq2Seq,
        DataCollatorWithFlattening,
        PrinterCallback,
        ProgressCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        get_scheduler,
        set_seed,
    )

    from utils import adapters, tokens
    from utils.model_source import context
    from utils.models import check_ends, load_model, merged, weights_hash
    from utils.processes import is_main_process, progress
    from utils.tokenizer import load_tokenizer, pad_within

    if resumed:
        resume.check_resumed(record, resumed, settings, trained_on, {"trainer": TrainingArguments, "lora": LoraConfig})
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
    if checkpoint and 0 < arguments.max_steps <= resume.steps_done(checkpoint):
        # The Trainer would take one step more where they do not end an epoch.
        print(f"Nothing left to do; the last checkpoint is {checkpoint}")
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
    # cuDNN's attention makes NaN of gradients on an H100 or H200 where a masked batch is 64 tokens long, or 128 more or
    # twice 128 and so on, and scores are very negative, as Qwen2.5's are (pytorch#196678).
    torch.backends.cuda.enable_cudnn_sdp(False)
    # With several GPUs in sight, one process would train on all of them at once, and its batch grow with their number.
    arguments._n_gpu = min(1, arguments.n_gpu)
    # LoRA's first weights are drawn below, so the seed comes first.
    set_seed(config.seed)

    # Prepare model
    tokenizer = load_tokenizer(config.model, config.trust_remote_code)
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
    window = windows.size(config.window, context(language_model.config), config.model)
    rows, long, examples = tokens.embedding_rows(language_model), 0, []
    for row, (plain, encoded_text) in enumerate(zip(texts, encoded, strict=True), start=1):
        tokens.check_ids(encoded_text, rows, f"{config.dataset}: row {row}")
        ids = np.array(encoded_text.input_ids)
        to_learn = ids.copy()
        if not config.loss_on_blanks:
            for position, (start, end) in zip(encoded_text.positions, encoded_text.offsets, strict=True):
                if plain[start:end].isspace():
                    to_learn[position] = -100
        cut = windows.windows(encoded_text, window, config.stride)
        long += len(cut) > 1
        for places, _, learns in cut:
            # Nothing predicts the first token; some models would count it all the same in the mean over the batch.
            labels = np.full(len(places), -100)
            labels[learns] = to_learn[places[learns]]
            examples.append({"input_ids": ids[places].tolist(), "labels": labels.tolist()})
    if config.packing:
        collator = DataCollatorWithFlattening()
        if is_main_process():
            check_packing(language_model.eval(), collator, examples[:2])
    else:
        pad_within(tokenizer, tokens.embedding_rows(language_model))
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
                in_windows = f" ({long} of more than {window} tokens: {len(examples)} windows in all)" if long else ""
                print(f"Training {count:,} parameters on {len(texts)} texts{in_windows}, {begin}", flush=True)

        def on_step_end(self, *_, **__):
            if is_main_process() and not self.begun:
                artifacts.write_json(record, artifacts.record(settings) | trained_on)
            self.begun = True

    class Progress(TrainerCallback):
        """Without a terminal, in place of the Trainer's bar, which is drawn anew with each report of the loss."""

        def on_train_begin(self, _, state, *__, **___):
            self.bar = progress("steps", total=state.max_steps, initial=state.global_step)

        def on_step_end(self, *_, **__):
            self.bar.update()

        def on_train_end(self, *_, **__):
            self.bar.close()

    class CheckedTrainer(Trainer):
        """Stops where the loss is no number, which the Trainer would count as 0, to train on with broken weights; and
        where a checkpoint can't be saved."""

        def training_step(self, model, inputs, *rest, **named):
            loss = super().training_step(model, inputs, *rest, **named)
            if not loss.isfinite():
                step = self.state.global_step + 1
                if (inputs["labels"] == -100).all():
                    hint = "no token of the batch counts in the loss; raise trainer.per_device_train_batch_size"
                else:
                    hint = "lower trainer.learning_rate, or use dtype=float32 and trainer.bf16=false"
                raise InputError(f"the loss is not a number (NaN) at step {step}: {hint}")
            return loss

        def _save_checkpoint(self, *arguments, **options):
            try:
                super()._save_checkpoint(*arguments, **options)
            except (OSError, SafetensorError, RuntimeError) as error:  # torch's own files raise the last
                raise artifacts.NotWritten(
                    f"model_dir={model_dir}: checkpoint-{self.state.global_step} can't be saved: {one_line(error)}; "
                    "once it can, resume=true continues from the checkpoint before"
                ) from error

    # Train
    if arguments.dataloader_drop_last and len(examples) < arguments.train_batch_size:
        raise InputError(
            f"trainer.dataloader_drop_last=true: {len(examples)} texts are fewer than a batch; leave it out"
        )
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
        if not sys.stderr.isatty() and trainer.pop_callback(ProgressCallback):
            trainer.add_callback(PrinterCallback)
            trainer.add_callback(Progress)
        # The Trainer would ask for these only after the training has been announced.
        trainer.get_optimizer_cls_and_kwargs(arguments, language_model)
        unused = torch.optim.SGD([torch.zeros(1)])
        get_scheduler(arguments.lr_scheduler_type, unused, 0, 1, arguments.lr_scheduler_kwargs)
        done = trainer.train(resume_from_checkpoint=checkpoint)
    except (InputError, KeyboardInterrupt):
        if begins.announced and sys.stderr.isatty():
            print(file=sys.stderr)  # below the progress bar
        raise
    except Exception as error:
        # Until a step is done, it is an argument that a library can't serve: one that is not installed, a file that
        # is not there, a way to attend that this machine does not have. After it, it is a fault.
        if begins.begun:
            raise
        if begins.announced and sys.stderr.isatty():
            print(file=sys.stderr)  # below the progress bar
        raise InputError(unwritten(error) or f"trainer: {one_line(error)}") from error

    if not is_main_process():
        return
    last = resume.last_checkpoint(model_dir)
    if last is not None and last == checkpoint:
        print(f"Nothing left to do; the last checkpoint is {last}")
    else:
        saved = f"the last checkpoint is {last}" if last else "no checkpoint was saved"
        since = f" since {checkpoint}" if checkpoint else ""
        print(f"{done.global_step} steps, mean loss {done.training_loss:.3f}{since}; {saved}")


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


if __name__ == "__main__":
    main()
