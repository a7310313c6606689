"""An adapter's folder: whether its kind is supported, and the base model that it names. Needs no torch."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from utils.artifacts import real_path
from utils.errors import InputError

KINDS = (
    "ADALORA",
    "BOFT",
    "C3A",
    "FOURIERFT",
    "HRA",
    "IA3",
    "LN_TUNING",
    "LOHA",
    "LOKR",
    "LORA",
    "MISS",
    "OFT",
    "RANDLORA",
    "VERA",
)
"""The kinds of peft of which the tests show that a checkpoint gives the trained model, and that merging it does.

Prompt, prefix and p-tuning are not among them: they put tokens before the text, whose attention would count.
"""

INITIALISATIONS = (True, False, "gaussian", "orthogonal")
"""LoRA's `init_lora_weights` that leave the base model as it is. PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA rewrite it: the
adapter then belongs on weights that nothing has saved. peft can convert such an adapter while saving it
(`path_initial_model_for_weight_conversion`), and then says true."""

UNSUPPORTED = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "loftq_config",
    "megatron_config",
    "monteclora_config",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)
"""Arguments of LoRA that make it depend on the text, change the base model's layers, or were not tried here."""


def expanded(path: str) -> Path:
    """With ~ expanded. An unknown user's ~name stays, where pathlib would raise."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def check_named(adapter: str, base: str) -> None:
    """Raise InputError if an adapter's base model has no name."""
    if not base:
        raise InputError(f"{adapter}: the adapter names no base model; give it as model=...")


def adapter_base(model: str) -> str | None:
    """The base model that an adapter's folder names ("" for none); None where `model` is not such a folder.

    Raises InputError if the adapter's configuration can't be read, or is of a kind that is not supported.
    """
    path = expanded(model) / "adapter_config.json"
    if not path.is_file():
        return None
    try:
        adapter = json.loads(path.read_text(encoding="utf-8"))
        base = adapter.get("base_model_name_or_path") or ""
        if not isinstance(base, str):
            raise ValueError("base_model_name_or_path is not text")
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from error
    except (AttributeError, ValueError) as error:
        raise InputError(f"{path}: damaged; name another checkpoint") from error
    check_kind(adapter, str(path))
    return base


def check_base(model: str, base: str | None) -> None:
    """Raise InputError if an adapter rests on itself; `base` is what it is put on, maybe an adapter as well."""
    place, below = real_path(expanded(model)), base
    seen = set()
    while below and below not in seen:
        if real_path(expanded(below)) == place:
            raise InputError(f"{model}: the adapter's base model is itself; give the model that it was trained on")
        seen.add(below)
        below = adapter_base(below)


def check_kind(adapter: Mapping, what: str) -> None:
    """Raise InputError, which begins with `what`, unless peft's configuration is of a kind that is supported."""
    kind = adapter.get("peft_type")
    if kind not in KINDS:
        raise InputError(f"{what}: peft's {kind} is not supported; these are: {', '.join(KINDS)}")
    initialisation = adapter.get("init_lora_weights", True)
    if initialisation not in INITIALISATIONS:
        supported = ", ".join(map(str, INITIALISATIONS)).replace("True, False", "true, false")
        raise InputError(
            f"{what}: init_lora_weights={initialisation} is not supported, since the base model alone would not give "
            f"the trained model again; these are: {supported}"
        )
    for argument in UNSUPPORTED:
        if adapter.get(argument):
            raise InputError(f"{what}: LoRA with {argument} is not supported; leave it out")
