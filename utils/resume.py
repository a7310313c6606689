"""What a training may be resumed from: checkpoints that are whole, of a run with the same settings and texts."""

import dataclasses
import json
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from utils import artifacts
from utils.errors import InputError, one_line
from utils.rules import numbered_checkpoints

# What a resumed run must have in common with the one that it continues, beside its texts, the model's weights and
# LoRA's settings: all that decides the weights that it ends with. More epochs or steps, and what is saved and logged,
# may differ.
KEPT = ("seed", "dtype", "loss_on_blanks", "packing")
YOUNGER = ("window", "stride")  # null in a record that lacks them
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


@dataclasses.dataclass
class Earlier:
    """What a run resumes from.

    record: where the run's record is, or will be; made: what it says (see `read_resumed`), None where there is none;
    checkpoint: the last that is whole, None to begin at the start; broken: those that are not whole, which
    are not used.
    """

    record: Path
    made: dict | None = None
    checkpoint: str | None = None
    broken: list[Path] = dataclasses.field(default_factory=list)


def earlier_run(model_dir: Path, resume: bool, processes: int) -> Earlier:
    """What lies in model_dir to resume from: nothing, unless `resume`.

    Raises InputError if there are checkpoints without `resume`, or with it none of them that is whole.
    """
    record = model_dir / "run.json"
    if not resume:
        if any(model_dir.glob("checkpoint-*")):
            raise InputError(
                f"model_dir={model_dir}: already holds checkpoints; continue with resume=true, or use another folder"
            )
        return Earlier(record)
    made = read_resumed(record) if record.is_file() else None
    checkpoint, broken = checkpoint_to_resume(model_dir, made["processes"] if made else processes)
    return Earlier(record, made, checkpoint, broken)


def read_resumed(record: Path) -> dict:
    """What a run's record says of what it was trained on, and how."""
    try:
        made = json.loads(record.read_text(encoding="utf-8"))
        # Since weights_precision is there, the hash is of all of the weights.
        compared = ("config", "texts_sha256", "weights_sha256", "weights_precision", "processes")
        found = {key: made[key] for key in compared}
        return found | {"processes": int(made["processes"])}
    except OSError as error:
        raise InputError(f"{record}: can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{record}: damaged, or from an older version; delete it to continue without comparing"
        ) from error


def check_resumed(earlier: Earlier, settings: dict, trained_on: dict) -> None:
    """Raise InputError if a run's record says that its checkpoints were made with other settings, other
    texts or another number of processes. A default that is spelt out is the same setting."""
    record, made = earlier.record, earlier.made
    if made is None:
        return
    # Slow to import, and needed for their defaults alone.
    from peft import LoraConfig
    from transformers import TrainingArguments

    kinds = {"trainer": TrainingArguments, "lora": LoraConfig}
    try:
        before = made["config"]
        pairs = {key: (settings[key], before[key]) for key in KEPT}
        pairs |= {key: (settings[key], before.get(key)) for key in YOUNGER}
        for key, kept in (("trainer", KEPT_TRAINER), ("lora", None)):
            now, then = (None if run[key] is None else defaults(kinds[key]) | run[key] for run in (settings, before))
            if now is None or then is None:
                pairs[key] = settings[key], before[key]
            else:
                pairs |= {f"{key}.{name}": (now.get(name), then.get(name)) for name in kept or now | then}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{record}: damaged, or from an older version; delete it to continue without comparing"
        ) from error
    pairs["the number of processes"] = trained_on["processes"], made["processes"]
    for key, (now, then) in pairs.items():
        if now != then:
            raise InputError(f"resume: {key} is {now} now but was {then} ({record})")
    if trained_on["texts_sha256"] != made["texts_sha256"]:
        raise InputError(f"resume: {settings['dataset']} has changed since the run began ({record})")


def check_weights(earlier: Earlier, weights_sha256: str, model: str) -> None:
    """Raise InputError if a run's record says that its model's weights differ from those of `model`."""
    if earlier.made is not None and earlier.made["weights_sha256"] != weights_sha256:
        raise InputError(f"resume: the weights of model={model} are not those of the run's start ({earlier.record})")


def defaults(kind) -> dict:
    """The values that a dataclass of settings gives to what is left out."""
    found = {}
    for field in dataclasses.fields(kind):
        if field.init:
            given = field.default is not dataclasses.MISSING
            found[field.name] = field.default if given else field.default_factory()
    return found


def checkpoint_to_resume(model_dir: Path, processes: int) -> tuple[str | None, list[Path]]:
    """The last checkpoint that is whole, and those that are not, which are not used.

    Raises InputError if some were saved to their end and none is whole.
    """
    saved = saved_checkpoints(model_dir)
    broken = [left for left in numbered_checkpoints(model_dir) if left not in saved]
    unsaved = [f"{left} is incomplete" for left in broken]
    faults = []
    for candidate in saved:
        found = fault(candidate, processes)
        if found is None:
            if (unsaved or faults) and artifacts.is_first_process():
                print(f"{'; '.join(unsaved + faults)}; continuing from {candidate}")
            return str(candidate), broken
        faults.append(found)
        broken.append(candidate)
    if faults:
        raise InputError(f"resume: {faults[0]}; no complete checkpoint is left: start over in another model_dir")
    if unsaved and artifacts.is_first_process():
        print(f"{'; '.join(unsaved)}; starting over")
    return None, broken


def last_checkpoint(model_dir: Path) -> str | None:
    saved = saved_checkpoints(model_dir)
    return str(saved[0]) if saved else None


def saved_checkpoints(model_dir: Path) -> list[Path]:
    """The checkpoints of a run that were saved to their end, the last one first.

    A run that is stopped while it saves leaves one without trainer_state.json, which the Trainer writes last, or with
    half of it.
    """
    return [path for path in reversed(numbered_checkpoints(model_dir)) if is_state(path / "trainer_state.json")]


# What the Trainer resumes from; it says nothing where one of them is not there. DeepSpeed has it all in global_step*.
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
        except OSError as error:
            raise unreadable(saved, error) from error
    return None


def steps_done(checkpoint: str) -> int:
    return json.loads(Path(checkpoint, "trainer_state.json").read_text(encoding="utf-8"))["global_step"]


def is_state(path: Path) -> bool:
    """Raises InputError if it can't be read: it may be whole all the same, and what is not whole is removed."""
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8"))["global_step"], int)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> InputError:
    # safetensors' errors have no strerror.
    return InputError(f"{path}: can't be read: {error.strerror or one_line(error)}")
