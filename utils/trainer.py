"""transformers' Trainer as train.py uses it: what it prints and records at its start, and when it stops.

Imports torch and transformers, which take seconds.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from safetensors import SafetensorError
from transformers import (
    DataCollator,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_scheduler,
)
from transformers.trainer_utils import TrainOutput

from utils import artifacts
from utils.arguments import refused
from utils.errors import InputError, is_out_of_memory, one_line, unwritten
from utils.processes import device_name, is_main_process, progress


@dataclass(eq=False)
class Beginning(TrainerCallback):
    """Says that the training begins, and records it once its first step is done.

    description: of the texts and of where it begins, for the line that says so; broken: checkpoints that are not whole,
    removed now; record: where the run's record goes, of `settings`, of `trained_on`, the rest that decides what is
    trained, and of the device.
    """

    model: PreTrainedModel
    description: str
    broken: list[Path]
    record: Path
    settings: dict
    trained_on: dict
    announced: bool = False
    begun: bool = False

    def on_train_begin(self, *_, **__):
        self.announced = True
        if is_main_process():
            count = sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad)
            # Half of it old and half of it new, one that is saved anew would look whole.
            for left in self.broken:
                shutil.rmtree(left, ignore_errors=True)
            print(f"Training {count:,} parameters on {self.description}", flush=True)

    def on_step_end(self, arguments, *_, **__):
        if is_main_process() and not self.begun:
            device = {"device": device_name(arguments.device)}
            artifacts.write_json(self.record, artifacts.record(self.settings) | self.trained_on | device)
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
    """Stops where the loss is not a number, which the Trainer would count as 0, to train on with broken weights; and
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
                f"model_dir={Path(self.args.output_dir)}: checkpoint-{self.state.global_step} can't be saved: "
                f"{one_line(error)}; once it can, resume=true continues from the checkpoint before"
            ) from error


def train(
    model: PreTrainedModel,
    arguments: TrainingArguments,
    examples: list[dict],
    collator: DataCollator,
    tokenizer: PreTrainedTokenizerFast,
    beginning: Beginning,
    checkpoint: str | None,
) -> TrainOutput:
    """Train on the examples (utils.training_examples), from the checkpoint on or, where that is None, from the start;
    the tokenizer is saved with each checkpoint.

    Raises InputError for an argument that a library can't serve, and for what a CheckedTrainer stops at.
    """
    if arguments.dataloader_drop_last and len(examples) < arguments.train_batch_size:
        raise InputError(
            f"trainer.dataloader_drop_last=true: {len(examples)} examples do not fill one batch; leave it out"
        )
    try:
        trainer = CheckedTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(examples),
            data_collator=collator,
            processing_class=tokenizer,
            callbacks=[beginning],
        )
        if not sys.stderr.isatty() and trainer.pop_callback(ProgressCallback):
            trainer.add_callback(PrinterCallback)
            trainer.add_callback(Progress)
        # The Trainer would ask for these only after the training has been announced.
        trainer.get_optimizer_cls_and_kwargs(arguments, model)
        unused = torch.optim.SGD([torch.zeros(1)])
        get_scheduler(arguments.lr_scheduler_type, unused, 0, 1, arguments.lr_scheduler_kwargs)
        return trainer.train(resume_from_checkpoint=checkpoint)
    except (InputError, KeyboardInterrupt):
        end_bar(beginning)
        raise
    except Exception as error:
        # Until a step is done, it is an argument that a library can't serve: one that is not installed, a file that
        # is not there, a way to attend that this machine does not have. After it, it is a fault.
        if beginning.begun or is_out_of_memory(error):
            raise
        end_bar(beginning)
        if told := unwritten(error):
            raise InputError(told) from error
        raise refused(error, "trainer", beginning.settings["trainer"]) from error


def end_bar(beginning: Beginning) -> None:
    """Let what is said next begin below the Trainer's bar, which there is in a terminal once training has begun."""
    if beginning.announced and sys.stderr.isatty():
        print(file=sys.stderr)
