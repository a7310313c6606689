"""A causal language model from a hub name, a folder, a GGUF file or an adapter."""

from pathlib import Path

import torch
from accelerate import PartialState
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from utils.errors import InputError
from utils.tokens import adapter_base, cannot_load, source


def load_model(
    model: str,
    dtype: str = "auto",
    quant: dict | None = None,
    trust_remote_code: bool = False,
    place: bool = True,
    base: str | None = None,
) -> PreTrainedModel:
    """The model, in evaluation mode, on this process's GPU (spread over all GPUs if this is the only process).

    dtype: "auto" (the checkpoint's own) or a torch dtype's name; quant: the arguments of transformers'
    BitsAndBytesConfig, left out with a notice where there is no GPU; place=False leaves the model on the CPU, for
    FSDP to shard. An adapter's folder gives the base model that it names, or `base`, with the adapter on it.
    Raises InputError where the model can't be had.
    """
    named = adapter_base(model)
    if named is not None:
        from peft import PeftModel

        if not (base or named):
            raise InputError(f"{model}: the adapter names no base model; give it as model=...")
        on = load_model(base or named, dtype, quant, trust_remote_code, place)
        return PeftModel.from_pretrained(on, str(Path(model).expanduser())).eval()

    arguments = source(model) | {"dtype": dtype, "trust_remote_code": trust_remote_code}
    state = PartialState()
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
        return AutoModelForCausalLM.from_pretrained(**arguments).eval()
    except Exception as error:  # a damaged file can raise nearly anything
        raise cannot_load("model", model, error) from error
