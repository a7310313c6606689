"""A causal language model from a hub name, a folder, a GGUF file or an adapter."""

import inspect
import warnings
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from utils.errors import InputError
from utils.processes import processes
from utils.tokens import adapter_base, cannot_load, first_line, source

# peft asks transformers for it by the old name.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)


def load_model(
    model: str,
    dtype: str = "auto",
    quant: dict | None = None,
    trust_remote_code: bool = False,
    place: bool = True,
    base: str | None = None,
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """The model, in evaluation mode, on this process's GPU (spread over all GPUs if this is the only process).

    dtype: "auto" (the checkpoint's own) or a torch dtype's name; quant: the arguments of transformers'
    BitsAndBytesConfig, left out with a notice where there is no GPU; place=False leaves the model on the CPU, for
    FSDP to shard; attn_implementation: transformers' name of a way to attend, None for its own choice. An adapter's
    folder gives the base model that it names, or `base`, with the adapter on it.
    Raises InputError where the model can't be had.
    """
    unknown = set(quant or ()) - set(inspect.signature(BitsAndBytesConfig.__init__).parameters)
    if unknown:
        raise InputError(f"quant: BitsAndBytesConfig has no argument {', '.join(sorted(unknown))}")
    named = adapter_base(model)
    if named is not None:
        return _load_adapter(model, base or named, dtype, quant, trust_remote_code, place, None, attn_implementation)

    arguments = source(model) | {"dtype": dtype, "trust_remote_code": trust_remote_code}
    if attn_implementation is not None:
        arguments["attn_implementation"] = attn_implementation
    state = processes()
    if torch.cuda.is_available() and place:
        arguments["device_map"] = "auto" if state.num_processes == 1 else {"": state.local_process_index}
    if "gguf_file" in arguments:
        from transformers import GgufConfig

        # Without this the model keeps the file's quantized form, which can be neither trained nor saved.
        arguments["quantization_config"] = GgufConfig(dequantize=True)
    elif quant is not None and torch.cuda.is_available():
        arguments["quantization_config"] = BitsAndBytesConfig(**quant)
    elif quant is not None and state.is_main_process:
        print("no GPU: quant is left out, and the model is loaded unquantized", flush=True)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(**arguments).eval()
    except Exception as error:  # a damaged file can raise nearly anything
        what = "model" if attn_implementation is None else f"model with attn_implementation={attn_implementation}"
        raise cannot_load(what, model, error) from error
    if loaded.dtype == torch.bfloat16 and not computes_bfloat16() and state.is_main_process:
        print("no bfloat16 instructions: dtype=float32 is faster here (and in train.py trainer.bf16=false)", flush=True)
    return loaded


def computes_bfloat16() -> bool:
    """Whether there are instructions for it: a processor without them emulates it, at a tenth of float32's speed."""
    found = torch.cpu.get_capabilities()
    return torch.cuda.is_available() or any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """A model to train, or to put a new adapter on: an adapter that it bears already becomes part of its weights."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def _load_adapter(model: str, base: str, *arguments) -> PreTrainedModel:
    from peft import PeftModel

    folder = Path(model).expanduser()
    if not base:
        raise InputError(f"{model}: the adapter names no base model; give it as model=...")
    if not any(folder.glob("adapter_model.*")):
        raise InputError(f"{model}: an adapter without its weights (adapter_model.safetensors)")
    try:
        on = merged(load_model(base, *arguments))
    except InputError as error:
        raise InputError(
            f"the base model of the adapter {model} (model=... if it lies elsewhere now): {error}"
        ) from error
    try:
        return PeftModel.from_pretrained(on, str(folder)).eval()
    except Exception as error:  # a damaged file can raise nearly anything, as can another model's adapter
        raise InputError(f"{model}: the adapter does not fit {base}, or is damaged: {first_line(error)}") from error
