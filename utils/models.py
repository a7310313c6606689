"""A causal language model from a hub name, a folder, a GGUF file or an adapter."""

import gc
import hashlib
import importlib.util
import inspect
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
from accelerate import init_empty_weights
from accelerate.utils import check_device_map
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.utils.logging import set_tqdm_hook

from utils.adapters import adapter_base, check_base, check_named, expanded
from utils.errors import InputError, is_out_of_memory, one_line
from utils.model_source import cannot_load, quiet_transformers, source
from utils.processes import is_main_process, local_processes, processes
from utils.progress import bar
from utils.tokenizer import check_vocabulary

if TYPE_CHECKING:
    from peft import LoraConfig

# The arguments of `from_pretrained` that a configuration is found by.
SOURCE = ("pretrained_model_name_or_path", "gguf_file", "local_files_only", "trust_remote_code")

# Of a configuration: where it was read, and by what.
UNCOUNTED = ("_name_or_path", "transformers_version")

# transformers shows its progress, of weights that are read or saved, as ours is shown.
set_tqdm_hook(lambda _, arguments, options: bar(*arguments, **options, silent=not is_main_process()))

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
    placed: Mapping[str, object] | None = None,
) -> PreTrainedModel:
    """The model, in evaluation mode, on one GPU if it fits there, else spread over those of this process.

    dtype: "auto" (the checkpoint's own) or a torch dtype's name; quant: the arguments of transformers'
    BitsAndBytesConfig, left out with a notice where there is no GPU; place=False leaves the model on the CPU, for FSDP
    to shard, and has the first process alone read it (unless it is quantized): in the others its weights are whatever
    memory holds; attn_implementation: transformers' name of a way to attend, None for its own choice; placed:
    transformers' device_map and max_memory, handed on as they are. An adapter's folder gives the base model that it
    names, or `base`, with the adapter on it.
    Raises InputError if the model can't be had, or if its files do not hold just the weights that it has.
    """
    unknown = set(quant or ()) - set(inspect.signature(BitsAndBytesConfig.__init__).parameters)
    if unknown:
        raise InputError(f"quant: BitsAndBytesConfig has no argument {', '.join(sorted(unknown))}")
    try:
        quantization = BitsAndBytesConfig(**quant or {})
    except PackageNotFoundError:
        quantization = None  # said below, where it is needed
    except (TypeError, ValueError) as error:
        raise InputError(f"quant: {one_line(error)}") from error
    named = adapter_base(model)
    if named is not None:
        base_options = dtype, quant, trust_remote_code, place, None, attn_implementation, placed
        base_model = _load_base(model, base or named, *base_options)
        if is_main_process():
            warn_of_other_base(model, base or named, base_model)
            if any(expanded(model).glob("model*.safetensors")):
                print(f"{model} holds an adapter and a whole model; the adapter is used", flush=True)
        return _with_adapter(model, base or named, base_model)

    arguments = source(model) | {"dtype": dtype, "trust_remote_code": trust_remote_code}
    if attn_implementation is not None:
        arguments["attn_implementation"] = attn_implementation
    state = processes()
    if "gguf_file" in arguments:
        from transformers import GgufConfig

        # Without this the model keeps the file's quantized form, which can be neither trained nor saved.
        arguments["quantization_config"] = GgufConfig(dequantize=True)
        if quant is not None and state.is_main_process:
            print("a .gguf file is loaded in full: quant is ignored", flush=True)
    elif quant is not None and can_quantize():
        if importlib.util.find_spec("bitsandbytes") is None:
            raise InputError("quant: needs bitsandbytes: pip install -r requirements-gpu.txt; or give quant=null")
        arguments["quantization_config"] = quantization
    elif quant is not None and state.is_main_process:
        print("no GPU: quant is ignored, and the model is loaded unquantized", flush=True)
    given = {key: value for key, value in (placed or {}).items() if value is not None}
    if torch.cuda.is_available():
        check_shares(given)
    if not place and not state.is_main_process and "quantization_config" not in arguments:
        return allocated(empty_model(arguments))
    if given:
        arguments |= given
        # Without a device_map transformers passes over max_memory, and leaves the model on the CPU.
        arguments.setdefault("device_map", "auto")
    check_generation(arguments["pretrained_model_name_or_path"])
    try:
        if torch.cuda.is_available() and place and not given:
            arguments |= on_cards(arguments)
        with quiet_transformers():
            # Weights of another shape would be an error that does not name them: they are in the report as well.
            loaded, report = AutoModelForCausalLM.from_pretrained(
                **arguments, output_loading_info=True, ignore_mismatched_sizes=True
            )
        if isinstance(arguments.get("device_map"), dict):
            with warnings.catch_warnings(action="ignore"):  # of names that are no parts of the model
                check_device_map(loaded, arguments["device_map"])
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        if is_out_of_memory(error):
            raise InputError(f"model={model}: does not fit into memory; give quant=... or another model") from error
        if "dispatched on the CPU or the disk" in str(error):
            raise InputError(
                f"model={model}: quantized, it does not fit on the GPU: use 4 bit (quant={{load_in_4bit: true}}) if "
                "this was 8, a smaller model, or more GPUs (CUDA_VISIBLE_DEVICES=...)"
            ) from error
        what = "model" if attn_implementation is None else f"model with attn_implementation={attn_implementation}"
        raise cannot_load(what, model, error) from error
    check_weights(model, report)
    check_finite(model, loaded.named_parameters())
    if getattr(loaded, "_hf_peft_config_loaded", False):
        raise InputError(
            f"model={model}: this is an adapter on the hub; download it: hf download {model} --local-dir FOLDER"
        )
    # Of what a model's file says here, only these would change what a call returns.
    for config in (loaded.config, loaded.config.get_text_config()):
        config.return_dict, config.output_attentions, config.output_hidden_states = True, False, False
    loaded.eval()
    devices = devices_of(loaded)
    if len(devices) > 1 and state.is_main_process:
        print(f"{model} is spread over {', '.join(devices)}", flush=True)
    elif place and not given and torch.cuda.is_available() and loaded.device.type == "cpu" and state.is_main_process:
        print(f"{model} is on the CPU, which is slow: there is not enough free memory on the GPU", flush=True)
    if loaded.dtype == torch.bfloat16 and not computes_bfloat16() and state.is_main_process:
        print(
            "this CPU has no bfloat16 instructions: dtype=float32 is faster here (and in train.py trainer.bf16=false)",
            flush=True,
        )
    return loaded


def devices_of(model: PreTrainedModel) -> list[str]:
    """Where transformers put a model's parts: GPUs by number, cpu, disk. Empty if it was not asked to place them."""
    return sorted({str(device) for device in getattr(model, "hf_device_map", {}).values()})


def is_offloaded(model: PreTrainedModel) -> bool:
    """Whether a part of its weights is kept elsewhere, and brought in when its layer runs."""
    return any(weight.is_meta for weight in model.parameters())


def can_quantize() -> bool:
    return torch.cuda.is_available()


def check_shares(placed: Mapping[str, object]) -> None:
    """Raise InputError if there are more processes than GPUs, as NCCL may then hang; or if several processes are told
    where a model goes, which would be the same GPUs for each."""
    count, launched = torch.cuda.device_count(), local_processes()
    if launched > count:
        raise InputError(f"{launched} processes, but GPUs: {count}; torchrun --nproc-per-node {count}")
    if launched > 1 and placed:
        raise InputError(f"{' and '.join(placed)}: leave out with several processes; each has its share of the GPUs")


def on_cards(arguments: Mapping[str, object]) -> dict[str, object]:
    """Where a model goes: on this process's own GPU if there is room for its weights, else spread over its share of the
    GPUs. The arguments are those of `from_pretrained`, without a device_map."""
    count, launched = torch.cuda.device_count(), local_processes()
    # The first is this process's own, as accelerate has it, by which the Trainer and NCCL go. No other is looked at
    # before it must be: that takes some memory there.
    own, *others = range(processes().local_process_index, count, launched)
    room = {own: room_on(own)}
    if weight_bytes(arguments) <= room[own]:
        return {"device_map": {"": own}}
    room |= {device: room_on(device) for device in others}
    return {"device_map": "auto", "max_memory": room | {"cpu": psutil.virtual_memory().available}}


def room_on(device: int) -> int:
    """The bytes of a GPU that weights may take: nine tenths of what is free, the rest is for what a batch takes."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # which torch keeps for itself
    return int(0.9 * (torch.cuda.mem_get_info(device)[0] + unused))


def empty_model(arguments: Mapping[str, object]) -> PreTrainedModel:
    """A model of which the configuration alone was read, its weights on torch's meta device; the arguments are those of
    `from_pretrained`."""
    named_source = {name: arguments[name] for name in SOURCE if name in arguments}
    config = AutoConfig.from_pretrained(**named_source)
    dtype = (config.dtype or torch.float32) if arguments["dtype"] == "auto" else arguments["dtype"]
    options = {name: arguments[name] for name in ("attn_implementation", "trust_remote_code") if name in arguments}
    with init_empty_weights():
        return AutoModelForCausalLM.from_config(config, dtype=dtype, **options)


def allocated(model: PreTrainedModel) -> PreTrainedModel:
    """An empty model with memory for its weights, which the system gives only where they are written to. On the meta
    device all have one address, and by it accelerate finds the optimizer's weights again once they are sharded."""
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(torch.empty_like(weight, device="cpu")))
    model.tie_weights()
    return model


def weight_bytes(arguments: Mapping[str, object]) -> float:
    """The memory of a model's weights, from its configuration alone. For a model quantized in 8 or 4 bit it is a little
    too high; other methods count as unquantized."""
    model = empty_model(arguments)
    weights = list(model.parameters())
    # As transformers has it: a model that was saved quantized stays as it is, whatever the argument.
    configs = model.config, model.config.get_text_config()
    saved = next((found for each in configs if (found := getattr(each, "quantization_config", None))), None)
    quant = saved or arguments.get("quantization_config") or {}
    quant = quant if isinstance(quant, dict) else quant.to_dict()
    # Other methods than bitsandbytes say `bits`.
    if quant.get("load_in_4bit") or quant.get("bits") == 4:
        size = 0.6
    elif quant.get("load_in_8bit") or quant.get("bits") == 8:
        size = 1.1
    else:
        size = weights[0].dtype.itemsize
    return size * sum(weight.numel() for weight in weights)


def computes_bfloat16() -> bool:
    """Whether there are instructions for it: a processor without them emulates it, at a tenth of float32's speed."""
    found = torch.cpu.get_capabilities()
    return torch.cuda.is_available() or any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def check_weights(model: str, report: dict) -> None:
    """Raise InputError, naming the first weight, unless the files held each weight of the model and no other.

    report: transformers' `output_loading_info`. What it leaves out, it would draw at random or pass over.
    """
    kinds = {
        "missing_keys": "its files lack weights of the model",
        "mismatched_keys": "its files hold weights whose shape differs from its config.json",
        "unexpected_keys": "its files hold weights that the model does not have",
    }
    for kind, problem in kinds.items():
        # Of another shape: (name, shape in the file, shape in the model).
        names = [key if isinstance(key, str) else key[0] for key in report[kind]]
        if names:
            hint = "; join the parts of a split .gguf file first" if re.search(r"\d+-of-\d+\.gguf$", model) else ""
            raise InputError(f"{model}: {problem}: {first_of(names)}{hint}")


def check_generation(folder: str) -> None:
    """Raise InputError if a folder's generation_config.json can't be read: transformers would go on without it, and
    answers would not end at its end-of-text tokens."""
    path = Path(folder, "generation_config.json")
    try:
        if path.exists() and not isinstance(json.loads(path.read_text(encoding="utf-8")), dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be read: {one_line(error)}; restore it, or remove it") from error


def check_finite(model: str, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raise InputError, naming the first, if a weight holds NaN or infinity."""
    wrong = []
    for name, weight in weights:
        # A sum takes no memory; one that is not finite can come of finite weights.
        is_here = weight.is_floating_point() and not weight.is_meta
        if is_here and weight.itemsize == 1:  # in 8-bit floats torch computes nothing
            weight = weight.float()
        if is_here and not weight.sum().isfinite() and not weight.isfinite().all():
            wrong.append(name)
    if wrong:
        raise InputError(
            f"{model}: weights that are not numbers (NaN or infinite): {first_of(wrong)}; try dtype=float32; if that "
            "fails, its training diverged"
        )


def warn_of_other_base(adapter: str, base: str, base_model: PreTrainedModel) -> None:
    """Print a line if the run.json beside an adapter's folder is of another base model. It can tell only models in one
    precision apart, not quantized ones, nor one that is partly kept outside the GPU."""
    try:
        made = json.loads(expanded(adapter).joinpath("..", "run.json").read_text(encoding="utf-8"))
        expected = made["weights_sha256"] if made["weights_precision"] == weights_precision(base_model) else None
    except (OSError, ValueError, KeyError, TypeError):
        return
    if expected and not is_offloaded(base_model) and expected != weights_hash(base_model):
        print(f"{adapter} was trained on another model than {base} is now (run.json beside it)", flush=True)


def weights_precision(model: PreTrainedModel) -> str | None:
    """The name of its dtype; None if it is quantized, which can be done in many ways."""
    return None if getattr(model, "is_quantized", False) else f"{model.dtype}".removeprefix("torch.")


def first_of(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return f"{first} and {len(others)} more" if others else first


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """A model to train, or to put a new adapter on: an adapter that it bears already becomes part of its weights.

    Raises InputError if this kind of adapter can't.
    """
    if not hasattr(model, "merge_and_unload"):
        return model
    try:
        return model.merge_and_unload()
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise InputError(f"the adapter can't be merged into its base model: {one_line(error)}") from error


def check_ends(adapted: PreTrainedModel) -> None:
    """Raise InputError if an adapter changes the embedding or the vocabulary head of a model in which the two share
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


def trainable(model: PreTrainedModel, lora: "LoraConfig | None", name: str) -> PreTrainedModel:
    """The model with a new adapter on it, whose weights alone are trained; without `lora` all of the model's own are.

    name: the model's, which evaluate.py puts the adapter onto. Raises InputError if peft can't make the adapter, or if
    a part of the model is kept outside the GPUs: of that only copies would be trained, or nothing.
    """
    from peft import get_peft_model

    if outside := sorted({"cpu", "disk"}.intersection(devices_of(model))):
        raise InputError(
            f"model={name}: not enough free memory on the GPU to train it (a part is on the {outside[0]}): give "
            "quant=..., a smaller model, or another GPU (CUDA_VISIBLE_DEVICES=...)"
        )

    # cuDNN's attention makes NaN of gradients on an H100 or H200 where a masked batch is 64 tokens long, or 128 more or
    # twice 128 and so on, and scores are very negative, as Qwen2.5's are (pytorch#196678).
    torch.backends.cuda.enable_cudnn_sdp(False)
    if lora is None:
        # An adapter's base model was frozen.
        for weight in model.parameters():
            weight.requires_grad_(weight.is_floating_point())
        return model
    # Without peft's prepare_model_for_kbit_training: get_peft_model freezes the base model as well; the rest (norms and
    # head in float32, forced checkpointing) makes 8 bit slower, and fails with several processes.
    try:
        adapted = get_peft_model(model, lora)
    except Exception as error:  # a value whose type peft does not expect can raise nearly anything
        raise InputError(f"lora: {one_line(error)}") from error
    check_ends(adapted)
    check_modules(lora, model)
    # Of a .gguf file peft would keep the folder alone.
    adapter = adapted.peft_config["default"]
    adapter.base_model_name_or_path = name
    for key, value in vars(adapter).items():
        if isinstance(value, set):  # it would be saved in another order by each process
            setattr(adapter, key, sorted(value))
    return adapted


def check_modules(lora: "LoraConfig", model: PreTrainedModel) -> None:
    """Raise InputError if a list of modules names one that the model does not have: peft passes over it."""
    # With the adapter on it a module's own name is that of its wrapper.
    known = [f".{name}" for name, _ in model.named_modules()]
    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        names = getattr(lora, key)
        for name in sorted(names) if names and not isinstance(names, str) else ():
            if not any(one.endswith(f".{name}") for one in known):
                raise InputError(f"lora.{key}: the model has no module {name}")


def load_checkpoints(
    checkpoints: Iterable[str], base: str | None = None, **options
) -> Iterator[tuple[str, PreTrainedModel]]:
    """Yield each checkpoint and its model, as `load_model` has it.

    Adapters of one configuration, as a run's checkpoints are, share their base model: it is read once, and each model
    serves only until the next is asked for.
    """
    before = adapted = None
    for checkpoint in checkpoints:
        named = adapter_base(checkpoint)
        # Of another configuration, what an adapter changes in the base model itself, such as biases, would stay.
        found = None if named is None else expanded(checkpoint).joinpath("adapter_config.json").read_bytes()
        if found is None or found != before:
            adapted = None  # its memory is free before the next model is loaded
            gc.collect()  # one that is spread refers to itself
            adapted = load_model(checkpoint, base=base, **options)
        else:
            adapted = _with_adapter(checkpoint, base or named, adapted.unload())
        before = found
        yield checkpoint, adapted


def _load_base(
    adapter: str, base: str, dtype: str, quant: dict | None, trust_remote_code: bool, *rest
) -> PreTrainedModel:
    check_named(adapter, base)
    if not any(expanded(adapter).glob("adapter_model.*")):
        raise InputError(f"{adapter}: an adapter without its weights (adapter_model.safetensors)")
    check_base(adapter, base)
    check_vocabulary(adapter, base, trust_remote_code)
    try:
        return merged(load_model(base, dtype, quant, trust_remote_code, *rest))
    except InputError as error:
        raise InputError(
            f"the base model of the adapter {adapter} (model=... if it lies elsewhere now): {error}"
        ) from error


def _with_adapter(model: str, base: str, on: PreTrainedModel) -> PreTrainedModel:
    from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
    from peft.utils import load_peft_weights

    folder = expanded(model)
    problem = f"{model}: the adapter does not fit {base}, or is damaged"
    try:
        found = load_peft_weights(str(folder), device="cpu")
        with warnings.catch_warnings(action="ignore"):  # of keys that are missing
            adapted = PeftModel.from_pretrained(on, str(folder)).eval()
        # Once more, since only this says which weights did not fit.
        report = set_peft_model_state_dict(adapted, found)
        expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    except Exception as error:  # a damaged file can raise nearly anything, as can another model's adapter
        if is_offloaded(on):
            raise InputError(
                f"{model}: peft can't put an adapter on {base}, of which a part is kept outside the GPU; give quant=..."
                " or use a GPU with more memory"
            ) from error
        raise InputError(f"{problem}: {one_line(error)}") from error
    if report.unexpected_keys:
        raise InputError(f"{problem}: the model has no module for its {first_of(report.unexpected_keys)}")
    # Names of both kinds are those of an older peft, which it has just read.
    if expected.keys() - found.keys() and not found.keys() - expected.keys():
        raise InputError(f"{problem}: it lacks {first_of(expected.keys() - found.keys())}")
    check_finite(model, found.items())
    try:
        check_ends(adapted)
    except InputError as error:
        raise InputError(f"{model}: {error}") from error
    return adapted


def weights_hash(model: PreTrainedModel) -> str:
    """A hash of a model: its configuration and, of each weight and buffer, the beginning and the sum of all its bytes,
    eight at a time, which no order of summing changes. Two models that share it are one, wherever they lie; of weights
    that are kept on the CPU or the disk for a GPU, names and shapes alone count."""
    config = {key: value for key, value in model.config.to_diff_dict().items() if key not in UNCOUNTED}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        if not weight.is_meta:
            flat = weight.detach().reshape(-1)
            digest.update(flat[:64].float().cpu().numpy().tobytes())
            digest.update(str(sum_of_bytes(flat)).encode())
    return digest.hexdigest()


def sum_of_bytes(flat: torch.Tensor) -> int:
    """Of one dimension, as whole numbers of eight bytes, modulo 2^64; what is left over as single ones. Reads without a
    copy, at the speed of memory."""
    octets = flat.contiguous().view(torch.uint8)
    if octets.storage_offset() % 8:
        octets = octets.clone()
    end = len(octets) // 8 * 8
    return int(octets[:end].view(torch.int64).sum()) + int(octets[end:].sum())
