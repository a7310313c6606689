"""A causal language model from a hub name, a folder, a GGUF file or an adapter."""

import contextlib
import inspect
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging

from utils.adapters import adapter_base
from utils.errors import InputError, one_line
from utils.processes import processes
from utils.tokens import cannot_load, source

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
    Raises InputError where the model can't be had, or where its files do not hold just the weights that it has.
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
        with quiet_transformers():
            # Weights of another shape would be an error that does not name them: they are in the report as well.
            loaded, report = AutoModelForCausalLM.from_pretrained(
                **arguments, output_loading_info=True, ignore_mismatched_sizes=True
            )
    except Exception as error:  # a damaged file can raise nearly anything
        what = "model" if attn_implementation is None else f"model with attn_implementation={attn_implementation}"
        raise cannot_load(what, model, error) from error
    check_weights(model, report)
    if getattr(loaded, "_hf_peft_config_loaded", False):
        raise InputError(f"model={model}: an adapter on the hub; fetch it: hf download {model} --local-dir FOLDER")
    # Of what a model's file says here, only these would change what a call returns.
    for config in (loaded.config, loaded.config.get_text_config()):
        config.return_dict, config.output_attentions, config.output_hidden_states = True, False, False
    loaded.eval()
    if loaded.dtype == torch.bfloat16 and not computes_bfloat16() and state.is_main_process:
        print("no bfloat16 instructions: dtype=float32 is faster here (and in train.py trainer.bf16=false)", flush=True)
    return loaded


def computes_bfloat16() -> bool:
    """Whether there are instructions for it: a processor without them emulates it, at a tenth of float32's speed."""
    found = torch.cpu.get_capabilities()
    return torch.cuda.is_available() or any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


@contextlib.contextmanager
def quiet_transformers():
    """Without its tables of weights that do not fit, which are errors here."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def check_weights(model: str, report: dict) -> None:
    """Raise InputError, naming the first weight, unless the files held each weight of the model and no other.

    report: transformers' `output_loading_info`. What it leaves out, it would draw at random or pass over.
    """
    kinds = {
        "missing_keys": "its files lack weights that the model has",
        "mismatched_keys": "its files hold weights of another shape than its config.json says",
        "unexpected_keys": "its files hold weights that the model does not have",
    }
    for kind, problem in kinds.items():
        # Of another shape: (name, shape in the file, shape in the model).
        names = [key if isinstance(key, str) else key[0] for key in report[kind]]
        if names:
            hint = "; join the parts of a split .gguf file first" if re.search(r"\d+-of-\d+\.gguf$", model) else ""
            raise InputError(f"model={model}: {problem}: {first_of(names)}{hint}")


def first_of(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return f"{first} and {len(others)} more" if others else first


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """A model to train, or to put a new adapter on: an adapter that it bears already becomes part of its weights.

    Raises InputError where this kind of adapter can't.
    """
    if not hasattr(model, "merge_and_unload"):
        return model
    try:
        return model.merge_and_unload()
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise InputError(f"the adapter can't become part of its base model: {one_line(error)}") from error


def check_ends(adapted: PreTrainedModel) -> None:
    """Raise InputError where an adapter changes the embedding or the vocabulary head of a model in which the two share
    their weights: neither a checkpoint nor merging tells which of them it changes."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    base = adapted.get_base_model()
    ends = base.get_input_embeddings(), base.get_output_embeddings()
    changed = any(isinstance(end, (BaseTunerLayer, AuxiliaryTrainingWrapper)) for end in ends)
    if changed and base.config.get_text_config().tie_word_embeddings:
        raise InputError(
            "the embedding and the vocabulary head of this model share their weights (tie_word_embeddings), and the "
            "adapter changes one of them, which is not supported; leave both out of its modules"
        )


def _load_adapter(model: str, base: str, *arguments) -> PreTrainedModel:
    from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
    from peft.utils import load_peft_weights

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
    problem = f"{model}: the adapter does not fit {base}, or is damaged"
    try:
        found = load_peft_weights(str(folder), device="cpu")
        with warnings.catch_warnings(action="ignore"):  # of keys that are missing
            adapted = PeftModel.from_pretrained(on, str(folder)).eval()
        # Once more, since only this says which weights did not fit.
        report = set_peft_model_state_dict(adapted, found)
        expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    except Exception as error:  # a damaged file can raise nearly anything, as can another model's adapter
        raise InputError(f"{problem}: {one_line(error)}") from error
    if report.unexpected_keys:
        raise InputError(f"{problem}: the model has no place for its {first_of(report.unexpected_keys)}")
    # Names of both kinds are those of an older peft, which it has just read.
    if expected.keys() - found.keys() and not found.keys() - expected.keys():
        raise InputError(f"{problem}: it lacks {first_of(expected.keys() - found.keys())}")
    try:
        check_ends(adapted)
    except InputError as error:
        raise InputError(f"{model}: {error}") from error
    return adapted
