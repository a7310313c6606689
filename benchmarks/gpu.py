"""What a GPU does with a model of Llama 3 8B's shape and random weights, beside what the card allows: make gpu.

    python benchmarks/gpu.py FIGURES.json [--tiny]

Each figure goes to FIGURES.json as it comes, so that a run that is cut off leaves what it had; a table comes last.
--tiny rehearses it on a processor, with a tiny model: its figures say nothing.
"""

import argparse
import functools
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import tiny
from utils.artifacts import write_json
from utils.models import quiet_transformers
from utils.received_attention import ReceivedAttention

ROOT = Path(__file__).resolve().parent.parent

LLAMA_3_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
}
TINY = LLAMA_3_8B | {"vocab_size": 6000, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2}

# Texts: how many tokens each, and how many of them.
TEXTS = ((57, 35), (1024, 2), (4096, 1), (32768, 1))
LONGEST_PLAIN = 1024

BATCH, BATCH_LENGTH = 8, 60

# Ways to train: the keys of train.py.
WAYS = {
    "bfloat16": "quant=null",
    "8 bit": "",
    "bfloat16, packed": "quant=null packing=true",
    "bfloat16, Liger's kernels": "quant=null +trainer.use_liger_kernel=true",
    "bfloat16, compiled": "quant=null +trainer.torch_compile=true",
}

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"


class Figures:
    """What was measured, by name: {name: {"value", "unit", "goal"}}."""

    def __init__(self, path: Path):
        self.path = path
        self.found: dict[str, dict] = {}

    def note(self, name: str, value: float | str, unit: str, goal: str = "") -> None:
        self.found[name] = {
            "value": value if isinstance(value, str) else float(f"{value:.4g}"),
            "unit": unit,
            "goal": goal,
        }
        print(f"{name}: {self.found[name]['value']} {unit}", flush=True)
        write_json(self.path, self.found)

    def table(self) -> str:
        rows = [f"| {name} | {one['value']} {one['unit']} | {one['goal']} |" for name, one in self.found.items()]
        return "\n".join(["| what | found | goal |", "| --- | --- | --- |", *rows])


def seconds(what: Callable[[], object], repeats: int = 3, warm: int = 2) -> float:
    """The median, with the card's work done."""
    found = []
    for number in range(warm + repeats):
        if GPU:
            torch.cuda.synchronize()
        started = time.perf_counter()
        what()
        if GPU:
            torch.cuda.synchronize()
        if number >= warm:
            found.append(time.perf_counter() - started)
    return statistics.median(found)


def peak_gigabytes(what: Callable[[], object]) -> float:
    """Above what lies on the card already; 0 without a card."""
    if not GPU:
        return 0.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    what()
    return (torch.cuda.max_memory_allocated() - before) / 1e9


def random_model(shape: dict) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(**shape, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for layer in model.model.layers:  # so that attention is not uniform
            layer.self_attn.q_proj.weight.mul_(6)
            layer.self_attn.k_proj.weight.mul_(6)
    return model.eval()


def ceilings(figures: Figures, size: int, bytes_copied: int) -> None:
    for dtype in (torch.bfloat16, torch.float32):
        left, right = torch.randn(2, size, size, device=DEVICE, dtype=dtype)
        rate = 2 * size**3 / seconds(functools.partial(torch.mm, left, right)) / 1e12
        figures.note(f"product of {size:,} x {size:,}, {dtype}".replace("torch.", ""), rate, "TFLOP/s")
    source = torch.empty(bytes_copied, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    rate = 2 * bytes_copied / seconds(lambda: target.copy_(source)) / 1e12
    figures.note("copy, bytes read and written", rate, "TB/s")


def extraction(figures: Figures, model: PreTrainedModel, shrink: int) -> None:
    for length, count in TEXTS:
        extract(figures, model, torch.randint(3, model.config.vocab_size, (count, length // shrink), device=DEVICE))


@torch.inference_mode()
def extract(figures: Figures, model: PreTrainedModel, ids: torch.Tensor) -> None:
    """Beside the body with torch's fused attention, and beside all layers' maps at once, where these fit."""
    (count, length), texts = ids.shape, ids.tolist()
    what = f"extraction, {count} x {length:,} tokens"
    receive = ReceivedAttention(model)
    started = time.perf_counter()
    receive.texts(texts)
    figures.note(f"{what}: the first, with checks and compilation", time.perf_counter() - started, "s")
    ours = seconds(lambda: receive.texts(texts))
    figures.note(f"{what}: memory above the weights", peak_gigabytes(lambda: receive.texts(texts)), "GB")
    model.set_attn_implementation("sdpa")
    body = seconds(lambda: model.model(input_ids=ids, use_cache=False))
    figures.note(what, count * length / ours, "tokens/s")
    fused = f"{sum(receive.is_fused.values())} layers fused"
    goal = {57: "≥ 0.9", 4096: "≥ 0.625", 32768: "≥ 0.5"}.get(length, "")
    figures.note(f"{what}: speed beside the bare body's, {fused}", body / ours, "times", goal)
    if length <= LONGEST_PLAIN:
        model.set_attn_implementation("eager")
        plain = seconds(lambda: all_maps(model, ids), repeats=1, warm=1)
        figures.note(f"{what}: speed beside all layers' maps, a text at a time", plain / ours, "times")


def all_maps(model: PreTrainedModel, ids: torch.Tensor) -> None:
    for of_text in ids:
        maps = model.model(input_ids=of_text[None], output_attentions=True, use_cache=False).attentions
        torch.stack(maps).float().mean(dim=(0, 1, 2)).tril(-1).sum(0).cpu()


def compiled_body(figures: Figures, model: PreTrainedModel) -> None:
    """A short batch is bound by launching kernels: what compiling, and CUDA's graphs, would bring."""
    model.set_attn_implementation("sdpa")
    ids = torch.randint(3, model.config.vocab_size, (35, 57), device=DEVICE)
    with torch.inference_mode():
        plain = seconds(lambda: model.model(input_ids=ids, use_cache=False))
        compiled = torch.compile(model.model, mode="reduce-overhead")
        started = time.perf_counter()
        compiled(input_ids=ids, use_cache=False)
        figures.note("bare body, 35 x 57 tokens: compiling it", time.perf_counter() - started, "s")
        faster = plain / seconds(lambda: compiled(input_ids=ids, use_cache=False))
        figures.note("bare body, 35 x 57 tokens: speed compiled, with CUDA's graphs", faster, "times")
    torch._dynamo.reset()


def bare_step(model: PreTrainedModel) -> float:
    """Forward and backward of LoRA on one batch, without a Trainer or an optimizer, as train.py has them."""
    adapted = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules="all-linear")).train()
    ids = torch.randint(3, model.config.vocab_size, (BATCH, BATCH_LENGTH), device=DEVICE)

    def step():
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = adapted(input_ids=ids, labels=ids).loss
        loss.backward()

    try:
        return seconds(step, repeats=10)
    finally:
        adapted.unload()
        model.eval()


def training(figures: Figures, folder: Path, bare: float, steps: int) -> None:
    texts = folder / "texts.csv"
    # As many tokens each as the bare step's, as this tokenizer counts them.
    tokenizer, word = tiny.tokenizer(vocabulary=6000), " born"
    count = BATCH_LENGTH // len(tokenizer(word, add_special_tokens=False)["input_ids"]) - 1
    texts.write_text("text\n" + f"{word * count}\n" * BATCH * steps)
    for way, keys in WAYS.items():
        command = f"train.py model={folder} dataset={texts} model_dir={folder / re.sub('[^a-z0-9]', '', way)} {keys}"
        options = f"trainer.max_steps={steps} trainer.logging_steps=1 trainer.save_strategy=no"
        started = time.perf_counter()
        times, output = [], []
        with subprocess.Popen(
            [sys.executable, "-u", *command.split(), *options.split()],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            for line in process.stdout:
                output.append(line)
                if "'loss'" in line:
                    times.append(time.perf_counter())
        if process.returncode or len(times) < steps:
            figures.note(f"training, {way}", "failed: " + output[-1].strip()[:200], "")
            continue
        step = statistics.median(after - before for before, after in zip(times[2:], times[3:], strict=False))
        what = f"training, {way}, {BATCH} x {BATCH_LENGTH} tokens"
        figures.note(f"{what}: a step", step, "s")
        figures.note(
            f"{what}: beside bare forward and backward", step / bare, "times", "≤ 1.5" if way == "bfloat16" else ""
        )
        figures.note(f"{what}: until the first step is done", times[0] - started, "s")


def evaluation(figures: Figures, folder: Path, options: str) -> None:
    """As typed, all of it: 500 questions, five examples each, with choices among all answers of a field."""
    started = time.perf_counter()
    command = f"evaluate.py model={folder} output_dir={folder / 'asked'} dtype=bfloat16 {options}"
    done = subprocess.run([sys.executable, *command.split()], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        figures.note("evaluation", "failed: " + done.stderr[-200:].strip(), "")
        return
    count = re.search(r"(\d+) questions;", done.stdout)[1]
    took = time.perf_counter() - started
    figures.note(f"evaluation, {count} questions with choice, loading included", took, "s", "≤ 60")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", type=Path)
    parser.add_argument("--tiny", action="store_true", help="rehearse it on a processor")
    given = parser.parse_args()
    if not GPU and not given.tiny:
        sys.exit("no GPU here; --tiny rehearses the measurements, whose figures then say nothing")
    figures = Figures(given.figures)
    figures.note("card", torch.cuda.get_device_name() if GPU else "none", "")
    figures.note("torch", torch.__version__, "")
    ceilings(figures, 256 if given.tiny else 8192, 10**6 if given.tiny else 4 * 10**9)
    model = random_model(TINY if given.tiny else LLAMA_3_8B)
    extraction(figures, model, 16 if given.tiny else 1)
    if GPU:
        compiled_body(figures, model)
    model.set_attn_implementation("sdpa")
    bare = bare_step(model)
    figures.note(f"bare forward and backward of LoRA, {BATCH} x {BATCH_LENGTH} tokens", bare, "s")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny.tokenizer(vocabulary=6000).save_pretrained(folder)
        with quiet_transformers():
            model.save_pretrained(folder)
        del model  # the scripts' models need its place
        if GPU:
            torch.cuda.empty_cache()
        evaluation(figures, folder, "people=2 shots=1" if given.tiny else "")
        training(figures, folder, bare, 5 if given.tiny else 20)
    print(figures.table())


if __name__ == "__main__":
    main()
