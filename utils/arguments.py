"""The arguments of a library's dataclass of settings, from a sub-tree of a YAML, checked before the library would.

The libraries take seconds to import: the functions that need one import it.
"""

import dataclasses
import enum
import math
import re
import types
import typing

from utils.adapters import check_kind
from utils.errors import InputError, one_line, unknown_key

if typing.TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import TrainingArguments

# Of the libraries' arguments: what makes no sense at 0 or from 1, and what they would notice late or never.
POSITIVE = (
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "save_steps",
    "save_total_limit",
    "logging_steps",
    "r",
    "lora_alpha",
    "dataloader_prefetch_factor",
)
BELOW_1 = ("adam_beta1", "adam_beta2", "label_smoothing_factor", "lora_dropout")

# In place of the library's annotations: that of fsdp is still of its older form, and the Trainer takes any other text
# than these for random.
NARROWER = {
    "fsdp": bool | None,
    "train_sampling_strategy": typing.Literal["random", "sequential", "group_by_length", "batch_rebalance"],
}

WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a name",
    list: "a list",
    dict: "keys and values",
    type(None): "null",
}


def training_arguments(trainer: dict, model_dir: str, seed: int) -> "TrainingArguments":
    """transformers' arguments, by the keys of `trainer` and by what this machine has.

    Raises InputError.
    """
    import torch
    from transformers import TrainingArguments

    gpu = torch.cuda.is_available()
    # Under FSDP the others wait while the first process reads the model: for half an hour by transformers' default.
    values = {"use_cpu": not gpu, "dataloader_pin_memory": gpu, "ddp_timeout": 24 * 3600, **trainer}
    if values.get("fsdp") and not isinstance(values.get("fsdp_config"), str):
        values["fsdp_config"] = {"cpu_ram_efficient_loading": True, **(values.get("fsdp_config") or {})}
    arguments = build(TrainingArguments, "trainer", values, output_dir=model_dir, seed=seed)
    # With several GPUs in sight, one process would train on all of them at once, and its batch grow with their number.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def lora_arguments(lora: dict | None) -> "LoraConfig | None":
    """peft's arguments, by the keys of `lora`; None for none. Raises InputError, of a kind not supported too."""
    from peft import LoraConfig

    if lora is None:
        return None
    check_kind(lora | {"peft_type": "LORA"}, "lora")
    return build(LoraConfig, "lora", lora, task_type="CAUSAL_LM")


def check_fsdp(arguments: "TrainingArguments", quant: dict | None) -> None:
    """Raise InputError if FSDP is asked for, and could not shard the model, or not read it in one process."""
    if arguments.fsdp and (quant or {}).get("load_in_8bit"):
        raise InputError("trainer.fsdp: it can't shard a model in 8 bit; add quant=null")
    if arguments.fsdp and not arguments.fsdp_config.get("cpu_ram_efficient_loading"):
        raise InputError("trainer.fsdp_config: cpu_ram_efficient_loading must be true: one process reads the model")


def build(kind, key: str, values: dict, **fixed):
    """An instance of a library's dataclass of settings; InputError names the key that it does not know or take."""
    for name in fixed:
        if name in values:
            raise InputError(f"{key}.{name}: leave it out; train.py sets it itself")
    checked = check_arguments(kind, key, values)
    try:
        return kind(**checked, **fixed)
    except Exception as error:  # such as a library that is not installed
        raise refused(error, key, values) from error


def refused(error: Exception, key: str, values: dict) -> InputError:
    """What a library said of its arguments, in one line. It rarely names the argument: where it names none of them, but
    quotes the value of one, and not in a list of choices, that one is named."""
    message = one_line(error)
    outside_lists = re.sub(r"\[[^]]*\]|one of .*", "", message)
    quoted = [
        f"{key}.{name}={text}"
        for name, value in values.items()
        for text in (value if isinstance(value, list) else [value])
        if type(text) is str and text
        if re.search(rf"(^|['\"`=])({re.escape(text)}|{re.escape(text.upper())})(['\"`, ]|$)", outside_lists)
    ]
    if len(quoted) > 1 or any(re.search(rf"\b{name}\b", message) for name in values):
        quoted = []
    said = "the library does not know it" if isinstance(error, KeyError) and quoted else message
    return InputError(f"{quoted[0] if quoted else key}: {said}")


def check_arguments(kind, key: str, values: dict) -> dict:
    """The values, with whole numbers for those that stand as 8.0 or 1e3; InputError at the first that the library's
    dataclass does not know, or that can't be meant."""
    checked = dict(values)
    known = {field.name: field for field in dataclasses.fields(kind) if field.init}
    hints = typing.get_type_hints(kind) | NARROWER
    for name, value in values.items():
        if name not in known:
            raise InputError(f"{key}: {unknown_key(name, known)}")
        if not fits(value, hints[name]):
            raise InputError(f"{key}.{name}={value}: must be {described(hints[name])}")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if float not in alternatives(hints[name]):
                checked[name] = int(value)
            # -1 is what stands for none where it is the default.
            none = known[name].default == -1
            if value <= 0 and (name in POSITIVE or (none and value != -1)):
                raise InputError(f"{key}.{name}={value}: must be above 0")
            if value < 0 and not none:
                raise InputError(f"{key}.{name}={value}: must not be below 0")
            if float not in alternatives(hints[name]) and value >= 2**63:
                raise InputError(f"{key}.{name}={value}: must be below 2^63")
            if name in BELOW_1 and value >= 1:
                raise InputError(f"{key}.{name}={value}: must be from 0 to below 1")
    return checked


def alternatives(hint) -> list:
    """The types that an annotation allows: of `list[str] | str | None` list[str], str and NoneType. Where there is an
    enumeration, text must be one of its values."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return [hint]
    kinds = [kind for part in typing.get_args(hint) for kind in alternatives(part)]
    return [kind for kind in kinds if kind is not str or not any(map(values_of, kinds))]


def values_of(kind) -> list | None:
    """The values of an enumeration or a Literal; None for any other type."""
    if typing.get_origin(kind) is typing.Literal:
        return list(typing.get_args(kind))
    return [member.value for member in kind] if isinstance(kind, enum.EnumType) else None


def fits(value, hint) -> bool:
    """Whether a value of a YAML is of a type that an annotation allows."""
    for kind in alternatives(hint):
        plain, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
        if values_of(kind):
            found = value in values_of(kind)
        elif plain in (int, float):
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            found = is_number and (plain is float or value == int(value))
        elif plain is list:
            found = isinstance(value, list) and all(fits(one, inner[0]) for one in value)
        elif plain in WORDS:
            found = isinstance(value, plain)
        else:  # a class of the library's own, which checks it
            found = isinstance(value, (str, dict))
        if found:
            return True
    return False


def described(hint) -> str:
    """An annotation in the words of a message."""
    words = []
    for kind in alternatives(hint):
        values = values_of(kind)
        known = WORDS.get(typing.get_origin(kind) or kind, "keys and values")
        words.append(f"one of {', '.join(map(str, values))}" if values else known)
    # Of annotations that are equal, typing keeps the order of the one that it met first.
    places = list(WORDS.values())
    return " or ".join(sorted(dict.fromkeys(words), key=lambda word: places.index(word) if word in places else -1))
