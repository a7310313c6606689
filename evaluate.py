"""Stage 5: checkpoint + questions -> answers and scores.

    python evaluate.py --config-name evaluate.yaml +model_dir=model_out/checkpoint-130

All checkpoints of a run, one after another: python evaluate.py model_dir=model_out

The base model, without a checkpoint: python evaluate.py model=meta-llama/Meta-Llama-3-8B output_dir=base_evaluation

Several processes share the questions: torchrun --nproc-per-node 2 evaluate.py ...
"""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

from utils import artifacts, biography, next_stage, questions
from utils.config import (
    boolean,
    checkpoint,
    checkpoints_in,
    dtype,
    file,
    integer,
    mapping,
    model,
    optional,
    path,
    script,
    text_or_mapping,
)
from utils.errors import InputError
from utils.kept import Kept, made_by

RULES = {
    "model_dir": optional(checkpoint()),
    "model": optional(model()),
    "output_dir": optional(path()),
    "dataset": file(),
    "examples": path(),
    "prompts": file(),
    "people": optional(integer(1)),
    "shots": integer(0),
    "seed": integer(0),
    "max_new_tokens": optional(integer(1)),
    "choice": boolean(),
    "batch_tokens": optional(integer(1)),
    "dtype": dtype(),
    "quant": optional(mapping()),
    "device_map": optional(text_or_mapping),
    "max_memory": optional(mapping()),
    "trust_remote_code": boolean(),
    "resume": boolean(),
}


@script("evaluate", RULES, writes=["output_dir", "model_dir"])
def main(config):
    started = time.monotonic()
    if config.model_dir is None and config.model is None:
        raise InputError("still needed: model_dir=<checkpoint>, or model=<base model> and output_dir=...")
    if config.model_dir is None and config.output_dir is None:
        raise InputError("still needed: output_dir=..., since there is no model_dir to write to")
    outputs = outputs_of(config.model_dir, config.model, config.output_dir)
    with contextlib.ExitStack() as claims:
        folders = {
            name: claims.enter_context(
                artifacts.claimed("output_dir", output / "predictions.csv", output / "metrics.json")
            )
            for name, output in outputs.items()
        }
        evaluate(config, outputs, folders)
    next_stage.say(started)


def evaluate(config: Mapping, outputs: dict[str, Path], folders: dict[str, Path]) -> None:
    """The stage itself; each checkpoint's folder in `folders` is for what is kept until all are done."""
    started = time.monotonic()
    prompts = questions.read_prompts(config.prompts)
    people = biography.read_people(config.dataset, prompts)
    pool = biography.read_people(config.examples, prompts) if config.shots else []
    asked = questions.ask(people, pool, prompts, config.shots, config.seed, config.people or len(people))

    # torch and transformers take seconds to import: only once the input is known to be good.
    import torch
    from omegaconf import OmegaConf

    from utils import scores, tokens
    from utils.models import load_checkpoints, weights_hash
    from utils.processes import is_main_process

    base = config.model if config.model_dir else None
    for name in outputs if base else ():
        if tokens.adapter_base(name) is None:
            raise InputError(f"model={base}: leave it out; model_dir={name} holds a whole model, not an adapter")
    options = {"dtype": config.dtype, "quant": config.quant, "trust_remote_code": config.trust_remote_code}
    options["placed"] = {"device_map": config.device_map, "max_memory": config.max_memory}
    for name, language_model in load_checkpoints(outputs, base, **options):
        tokenizer = tokens.load_tokenizer(name, config.trust_remote_code, base)
        settings = OmegaConf.to_container(config) | ({"model_dir": name} if config.model_dir else {})
        device = language_model.device.type
        answered_with = {
            "questions": [vars(question) for question in asked],
            "tokenizer": tokens.fingerprint(tokenizer),
            "weights_sha256": weights_hash(language_model),
            "device": device,
        }
        kept = Kept(folders[name], made_by(settings, **answered_with))
        results = answer(language_model, tokenizer, asked, config, kept)
        del language_model  # before the next is loaded
        if not is_main_process():
            continue
        output = outputs[name]
        metrics = scores.by_field(results) | artifacts.record(settings)
        metrics["device"] = f"{device} {torch.cuda.get_device_name()}" if device == "cuda" else device
        metrics["seconds"] = round(time.monotonic() - started, 1)
        with artifacts.recorded_file(output / "predictions.csv", metrics, output / "metrics.json") as aside:
            artifacts.fill_csv(aside, results)
        show(metrics, f"{len(results)} questions; {output}/predictions.csv, {output}/metrics.json")
        started = time.monotonic()


def outputs_of(model_dir: str | None, model: str | None, output_dir: str | None) -> dict[str, Path]:
    """Each checkpoint that is asked, in the order of their steps, and where its answers go."""
    checkpoints = checkpoints_in(model_dir) if model_dir else []
    if checkpoints:
        return {str(path): Path(output_dir, path.name) if output_dir else path / "evaluation" for path in checkpoints}
    return {model_dir or model: Path(output_dir or Path(model_dir) / "evaluation")}


def answer(language_model, tokenizer, asked: list[questions.Question], config, kept: Kept) -> list[dict]:
    """A row of predictions.csv for each question, in every process; the processes share the work, and what an earlier
    run has kept of it is done."""
    from utils import answers, scores
    from utils.processes import gathered, is_main_process, my_share, of_first, progress

    # Prepare data
    lengths = answers.answer_tokens(tokenizer, asked)
    limit = config.max_new_tokens or max(lengths)
    cut = sum(length > limit for length in lengths)
    if cut and is_main_process():
        longest = max(lengths)
        print(f"max_new_tokens={limit} cuts {cut} of {len(lengths)} gold answers short (the longest has {longest})")
    answers.check_questions(language_model, tokenizer, asked, max(limit, *lengths))
    # The longest: windows and chosen keys show beyond their length alone.
    answers.check_cache(language_model, tokenizer, max(asked, key=lambda question: len(question.prompt)))

    # Answer, but for whole batches that are done: an answer's last digits depend on its batch.
    answered: dict[int, tuple[str, float]] = {}
    chosen: dict[int, str] = {}
    for what, of_batch in of_first(kept.read(config.resume) if is_main_process() else []):
        (answered if what == "answers" else chosen).update(of_batch)
    mine = my_share(list(range(len(asked))))
    prompted, golds = [asked[index].prompt for index in mine], [asked[index].answer for index in mine]
    done = {place for place, index in enumerate(mine) if index in answered}
    to_ask = language_model, tokenizer, prompted
    batch_tokens = config.batch_tokens or answers.BATCH_TOKENS["cpu" if language_model.device.type == "cpu" else "cuda"]
    with progress("answers", total=len(mine)) as bar:
        for batch in answers.greedy_answers(*to_ask, golds, limit, batch_tokens, done):
            found = {mine[place]: answer for place, answer in batch.items()}
            kept.add(["answers", list(found.items())])
            answered.update(found)
            bar.update(len(batch))
    done = {place for place, index in enumerate(mine) if index in chosen}
    if config.choice:
        choices = [asked[index].choices for index in mine]
        with progress("choices", total=len(mine)) as bar:
            for batch in answers.choice_log_likelihoods(*to_ask, choices, batch_tokens, done):
                found = {mine[place]: choices[place][of_one.index(max(of_one))] for place, of_one in batch.items()}
                kept.add(["choices", list(found.items())])
                chosen.update(found)
                bar.update(len(batch))
    answered, chosen = gathered(answered), gathered(chosen)

    # Score
    results = []
    for index, question in enumerate(asked):
        prediction, log_likelihood = answered[index]
        results.append(
            {
                "field": question.field,
                "name": question.name,
                "prompt": question.prompt,
                "answer": question.answer,
                "prediction": prediction,
                "exact_match": scores.exact_match(prediction, question.answer),
                "f1": scores.f1(prediction, question.answer),
                "log_likelihood": log_likelihood,
                "chosen": chosen.get(index),
            }
        )
    return results


def show(metrics: dict, last_line: str) -> None:
    import pandas as pd

    table = pd.DataFrame(metrics["fields"] | {"average": metrics["average"]}).T
    print(table.dropna(axis=1, how="all").to_string(float_format=lambda value: f"{value:.2f}"))
    print(last_line)


if __name__ == "__main__":
    main()
