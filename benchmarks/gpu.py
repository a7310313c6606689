"""What a GPU does with a model of Llama 3 8B's shape and random weights, beside what the card allows: make gpu.

    python benchmarks/gpu.py FIGURES.json [--tiny]

Each figure goes to FIGURES.json as it comes, so that a run that is cut off leaves what it had; a table comes last.
--tiny rehearses it on a processor, with a tiny model: its figures say nothing.
"""

import argparse
import functools
import gc
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import tiny
from utils import answers, biography, questions
from utils.artifacts import commit, write_json
from utils.errors import one_line
from utils.model_source import quiet_transformers
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

# GB of the card: the weights take 16, all that is measured takes some 30.
LEAST_MEMORY = 20

# Texts: how many tokens each, and how many of them.
TEXTS = ((57, 35), (1024, 2), (4096, 1), (32768, 1))
# All layers' maps of 4,096 tokens would take 34 GB; the way `all_maps` sums them takes four times that.
LONGEST_PLAIN = 1024

# Further lengths, each of which is read twice.
MORE_LENGTHS = (1500, 2500, 3500)

BATCH, BATCH_LENGTH = 8, 60
BARE_STEP = f"bare forward and backward of LoRA, {BATCH} x {BATCH_LENGTH} tokens"

# Ways to train: the keys of train.py.
WAYS = {
    "bfloat16": "quant=null",
    "8 bit": "",
    "bfloat16, packed": "quant=null packing=true",
    "bfloat16, Liger's kernels": "quant=null +trainer.use_liger_kernel=true",
}

# Of the model that is compiled: it takes minutes for all.
COMPILED_LAYERS = 4

# Tokens in a batch of evaluation, and how many people are asked.
BATCHES, ASKED = (16384, 65536), 10

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"


class Figures:
    """What was measured, by name: {name: {"value", "unit"}}."""

    def __init__(self, path: Path):
        self.path = path
        self.found: dict[str, dict] = {}

    def note(self, name: str, value: float | str, unit: str) -> None:
        self.found[name] = {"value": value if isinstance(value, str) else float(f"{value:.4g}"), "unit": unit}
        print(f"{name}: {self.found[name]['value']} {unit}", flush=True)
        write_json(self.path, self.found)

    def part(self, measure: Callable, *given) -> None:
        """One measurement; if it fails, for want of memory perhaps, that is noted, and the others go on."""
        try:
            measure(self, *given)
        except Exception as error:
            traceback.print_exc()
            self.note(measure.__name__.replace("_", " "), f"failed: {one_line(error)}"[:200], "")

    def table(self) -> str:
        rows = [f"| {name} | {one['value']} {one['unit']} |" for name, one in self.found.items()]
        return "\n".join(["| what | found |", "| --- | --- |", *rows])


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
        what()
        return 0.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    what()
    return (torch.cuda.max_memory_allocated() - before) / 1e9


def used_gigabytes() -> float:
    """By all processes on the card."""
    if not GPU:
        return 0.0
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 1e9


def random_model(shape: dict) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(**shape, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for layer in model.model.layers:  # so that attention is not uniform
            layer.self_attn.q_proj.weight.mul_(1.5)
            layer.self_attn.k_proj.weight.mul_(1.5)
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


@torch.inference_mode()
def extraction(figures: Figures, model: PreTrainedModel, ids: torch.Tensor) -> None:
    """Beside the body with torch's fused attention, and beside all layers' maps at once, where these fit."""
    (count, length), texts = ids.shape, ids.tolist()
    what = f"extraction, {count} x {length:,} tokens"
    receive = ReceivedAttention(model)
    started = time.perf_counter()
    receive.texts(texts)
    figures.note(f"{what}: the first, with checks and compilation", time.perf_counter() - started, "s")
    # The longest take seconds, beside which what varies is nothing.
    turns = {"repeats": 1, "warm": 0} if length > 10_000 else {}
    ours = seconds(lambda: receive.texts(texts), **turns)
    figures.note(f"{what}: memory above the weights", peak_gigabytes(lambda: receive.texts(texts)), "GB")
    model.set_attn_implementation("sdpa")
    run_body = functools.partial(model.model, input_ids=ids, use_cache=False)
    body = seconds(run_body)
    figures.note(what, count * length / ours, "tokens/s")
    fused = f"{sum(receive.is_fused.values())} layers fused"
    figures.note(f"{what}: speed beside the bare body's, {fused}", body / ours, "times")
    figures.note(f"{what}: the bare body's memory above the weights", peak_gigabytes(run_body), "GB")
    if length <= LONGEST_PLAIN:
        model.set_attn_implementation("eager")
        read_maps = functools.partial(all_maps, model, ids)
        plain = seconds(read_maps, repeats=1, warm=1)
        figures.note(f"{what}: speed beside all layers' maps, a text at a time", plain / ours, "times")
        figures.note(f"{what}: all maps' memory above the weights", peak_gigabytes(read_maps), "GB")


def more_lengths(figures: Figures, model: PreTrainedModel, shrink: int) -> None:
    """What a text of a length that was not read before costs: its kernels may be compiled anew."""
    receive = ReceivedAttention(model)
    for length in MORE_LENGTHS:
        texts = torch.randint(3, model.config.vocab_size, (1, length // shrink)).tolist()
        what = f"extraction, one text of {length:,} tokens after other lengths"
        figures.note(f"{what}: the first", seconds(lambda texts=texts: receive.texts(texts), 1, 0), "s")
        figures.note(f"{what}: the next", seconds(lambda texts=texts: receive.texts(texts), 1, 0), "s")


def all_maps(model: PreTrainedModel, ids: torch.Tensor) -> None:
    for text_ids in ids:
        maps = model.model(input_ids=text_ids[None], output_attentions=True, use_cache=False).attentions
        torch.stack(maps).float().mean(dim=(0, 1, 2)).tril(-1).sum(0).cpu()


def compiled(figures: Figures, shape: dict) -> None:
    """A short batch is bound by launching kernels: what torch.compile and CUDA's graphs would bring, and cost."""
    layers = min(COMPILED_LAYERS, shape["num_hidden_layers"])
    model = random_model(shape | {"num_hidden_layers": layers})
    model.set_attn_implementation("sdpa")
    ids = torch.randint(3, model.config.vocab_size, (35, 57), device=DEVICE)
    with torch.inference_mode():
        body = functools.partial(model.model, input_ids=ids, use_cache=False)
        beside_compiled(figures, f"bare body, {layers} layers, 35 x 57 tokens", body, mode="reduce-overhead")
    adapted = with_adapter(model).train()
    ids = ids[:BATCH]
    beside_compiled(
        figures,
        f"bare LoRA step, {layers} layers, {BATCH} x 57 tokens",
        functools.partial(forward_and_backward, adapted, ids),
    )


def beside_compiled(figures: Figures, what: str, run: Callable[[], object], **options: str) -> None:
    plain = seconds(run)
    torch._dynamo.reset()
    faster = torch.compile(run, **options)
    started = time.perf_counter()
    try:
        faster()
    except Exception as error:  # a compiler fails in many ways
        figures.note(f"{what}: compiled", "failed: " + str(error).strip()[:200], "")
        return
    figures.note(f"{what}: compiling it", time.perf_counter() - started, "s")
    figures.note(f"{what}: speed compiled", plain / seconds(faster), "times")
    torch._dynamo.reset()


def with_adapter(model: PreTrainedModel) -> PeftModel:
    return get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules="all-linear"))


def forward_and_backward(model: PeftModel, ids: torch.Tensor) -> None:
    with torch.autocast(DEVICE, torch.bfloat16):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()


def bare_step(figures: Figures, model: PreTrainedModel) -> None:
    """Forward and backward of LoRA on one batch, without a Trainer or an optimizer, as train.py has them."""
    adapted = with_adapter(model).train()
    ids = torch.randint(3, model.config.vocab_size, (BATCH, BATCH_LENGTH), device=DEVICE)
    try:
        figures.note(BARE_STEP, seconds(functools.partial(forward_and_backward, adapted, ids), repeats=10), "s")
    finally:
        adapted.unload()
        model.eval()


def answers_by_batch(figures: Figures, model: PreTrainedModel, people: int) -> None:
    """Greedy answers and choices among all answers of a field, in batches of more and more tokens."""
    tokenizer = tiny.tokenizer(vocabulary=6000)
    prompts = questions.read_prompts(str(ROOT / "data/prompts_questions.csv"))
    everybody = biography.read_people(str(ROOT / "data/biography_synthetic.csv"), prompts)
    pool = biography.read_people(str(ROOT / "data/biography_real.csv"), prompts)
    asked = questions.ask(everybody, pool, prompts, shots=5, seed=1, first=people)
    texts, golds = [one.prompt for one in asked], [one.answer for one in asked]
    limit = max(answers.answer_tokens(tokenizer, asked))

    def answer(batch_tokens: int) -> None:
        list(answers.greedy_answers(model, tokenizer, texts, golds, limit, batch_tokens))
        list(answers.choice_log_likelihoods(model, tokenizer, texts, [one.choices for one in asked], batch_tokens))

    answer(BATCHES[0])  # what is set up once
    for batch_tokens in BATCHES:
        what = f"evaluation in batches of {batch_tokens:,} tokens"
        started = time.perf_counter()
        memory = peak_gigabytes(functools.partial(answer, batch_tokens))
        figures.note(what, len(asked) / (time.perf_counter() - started), "questions/s")
        figures.note(f"{what}: memory above the weights", memory, "GB")


def training(figures: Figures, folder: Path, steps: int) -> None:
    texts = folder / "texts.csv"
    # As many tokens each as the bare step's, as this tokenizer counts them.
    tokenizer, word = tiny.tokenizer(vocabulary=6000), " born"
    count = BATCH_LENGTH // len(tokenizer(word, add_special_tokens=False)["input_ids"]) - 1
    texts.write_text("text\n" + f"{word * count}\n" * BATCH * steps)
    for way, keys in WAYS.items():
        command = f"train.py model={folder} dataset={texts} model_dir={folder / re.sub('[^a-z0-9]', '', way)} {keys}"
        options = f"trainer.max_steps={steps} trainer.logging_steps=1 trainer.save_strategy=no"
        started = time.perf_counter()
        times, output, used = [], [], 0
        with subprocess.Popen(
            [sys.executable, "-u", *command.split(), *options.split()],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            for line in process.stdout:
                output.append(line)
                if "'loss'" in line:
                    times.append(time.perf_counter())
                    used = max(used, used_gigabytes())
        if process.returncode or len(times) < steps:
            figures.note(f"training, {way}", "failed: " + output[-1].strip()[:200], "")
            continue
        step = statistics.median(after - before for before, after in zip(times[2:], times[3:], strict=False))
        what = f"training, {way}, {BATCH} x {BATCH_LENGTH} tokens"
        figures.note(f"{what}: a step", step, "s")
        if BARE_STEP in figures.found:
            beside = step / figures.found[BARE_STEP]["value"]
            figures.note(f"{what}: beside bare forward and backward", beside, "times")
        figures.note(f"{what}: memory in use, with the weights", used, "GB")
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
    figures.note(f"evaluation, {count} questions with choice, loading included", took, "s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", type=Path)
    parser.add_argument("--tiny", action="store_true", help="rehearse it on a processor")
    given = parser.parse_args()
    if not GPU and not given.tiny:
        print("skipped: no GPU here (--tiny rehearses the measurements, whose figures then say nothing)")
        return
    memory = torch.cuda.mem_get_info()[1] / 1e9 if GPU else 0.0
    if GPU and memory < LEAST_MEMORY and not given.tiny:
        print(f"skipped: this GPU has {memory:.0f} GB, and the model with a batch takes more than {LEAST_MEMORY}")
        return
    started = time.perf_counter()
    figures = Figures(given.figures)
    figures.note("card", torch.cuda.get_device_name() if GPU else "none", "")
    figures.note("torch", torch.__version__, "")
    figures.note("transformers", transformers.__version__, "")
    figures.note("commit", commit() or "none", "")
    figures.part(ceilings, *((256, 10**6) if given.tiny else (8192, 4 * 10**9)))
    shape, shrink = (TINY, 16) if given.tiny else (LLAMA_3_8B, 1)
    model = random_model(shape)
    for length, count in TEXTS:
        ids = torch.randint(3, model.config.vocab_size, (count, length // shrink), device=DEVICE)
        figures.part(extraction, model, ids)
    figures.part(more_lengths, model, shrink)
    model.set_attn_implementation("sdpa")
    figures.part(bare_step, model)
    figures.part(answers_by_batch, model, 2 if given.tiny else ASKED)
    if GPU:
        figures.part(compiled, shape)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny.tokenizer(vocabulary=6000).save_pretrained(folder)
        with quiet_transformers():
            model.save_pretrained(folder)
        del model  # the scripts' models need its place, and their memory is measured
        gc.collect()
        if GPU:
            torch.cuda.empty_cache()
        figures.part(evaluation, folder, "people=2 shots=1" if given.tiny else "")
        figures.part(training, folder, 5 if given.tiny else 20)
    figures.note("all of these measurements", time.perf_counter() - started, "s")
    print(figures.table())


if __name__ == "__main__":
    main()
