"""Stage 5: checkpoint + questions -> answers and scores.

    python evaluate.py --config-name evaluate.yaml model_dir=model_out/checkpoint-130

All checkpoints of a run, one after another: python evaluate.py model_dir=model_out

The base model, without a checkpoint: python evaluate.py model=meta-llama/Meta-Llama-3-8B output_dir=base_evaluation

Questions of your own, not about people: python evaluate.py model_dir=model_out questions=my_questions.csv

Several processes share the questions: torchrun --nproc-per-node 2 evaluate.py ...
"""

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

from omegaconf import OmegaConf

from utils import artifacts, biography, free_questions, next_stage, questions, rules
from utils.errors import InputError
from utils.kept import Kept, made_by
from utils.script import check_value, script

RULES = {
    "model_dir": rules.optional(rules.checkpoint()),
    "model": rules.optional(rules.model()),
    "output_dir": rules.optional(rules.path()),
    "dataset": rules.optional(rules.path()),
    "prompts": rules.optional(rules.path()),
    "people": rules.optional(rules.integer(1)),
    "questions": rules.optional(rules.file()),
    "group": rules.optional(rules.text()),
    "template": rules.optional(rules.text()),
    "shots": rules.integer(0),
    "examples": rules.optional(rules.path()),
    "seed": rules.integer(0),
    "max_new_tokens": rules.optional(rules.integer(1)),
    "choice": rules.boolean(),
    "batch_tokens": rules.optional(rules.integer(1)),
    "dtype": rules.dtype(),
    "quant": rules.optional(rules.mapping()),
    "device_map": rules.optional(rules.device_map),
    "max_memory": rules.optional(rules.mapping()),
    "trust_remote_code": rules.boolean(),
    "resume": rules.boolean(),
}


@script("evaluate", RULES, writes=["output_dir", "model_dir"])
def main(config):
    started = time.monotonic()
    if config.model_dir is None and config.model is None:
        raise InputError("still needed: model_dir=<checkpoint>, or model=<base model> and output_dir=...")
    if config.model_dir is None and config.output_dir is None:
        raise InputError("still needed: output_dir=..., since there is no model_dir to write to")
    fill_defaults(config)
    outputs = outputs_of(config.model_dir, config.model, config.output_dir)
    read = {key: config[key] for key in ("questions", "dataset", "prompts", "examples")}
    with contextlib.ExitStack() as claims:
        folders = {
            name: claims.enter_context(
                artifacts.claimed("output_dir", output / "predictions.csv", output / "metrics.json", **read)
            )
            for name, output in outputs.items()
        }
        evaluate(config, outputs, folders)
    next_stage.announce(started)


def evaluate(config: Mapping, outputs: dict[str, Path], folders: dict[str, Path]) -> None:
    """The stage itself; each checkpoint's folder in `folders` is for what is kept until all are done."""
    started = time.monotonic()
    asked, unanswerable = questions_of(config)
    if unanswerable and artifacts.is_first_process():
        print(f"{config.questions}: skipped {unanswerable} questions without an answer")

    # torch and transformers take seconds to import: only once the input is known to be good.
    from utils import scores
    from utils.adapters import adapter_base
    from utils.answers import end_tokens
    from utils.models import load_checkpoints, weights_hash
    from utils.padding import input_device
    from utils.processes import device_name, is_main_process
    from utils.tokenizer import fed_around, fingerprint, load_tokenizer

    base = config.model if config.model_dir else None
    for name in outputs if base else ():
        if adapter_base(name) is None:
            raise InputError(f"model={base}: leave it out; model_dir={name} holds a whole model, not an adapter")
    resolved = OmegaConf.to_container(config)
    options = {"dtype": config.dtype, "quant": resolved["quant"], "trust_remote_code": config.trust_remote_code}
    options["placed"] = {"device_map": resolved["device_map"], "max_memory": resolved["max_memory"]}
    for name, model in load_checkpoints(outputs, base, **options):
        tokenizer = load_tokenizer(name, config.trust_remote_code, base)
        settings = resolved | ({"model_dir": name} if config.model_dir else {})
        device = input_device(model)
        answered_with = {
            "questions": [vars(question) for question in asked],
            "tokenizer": fingerprint(tokenizer),
            "special_tokens": fed_around(tokenizer),
            "end_tokens": sorted(end_tokens(model, tokenizer)),
            "weights_sha256": weights_hash(model),
            "device": device.type,
        }
        kept = Kept(folders[name], made_by(settings, **answered_with))
        results = answer(model, tokenizer, asked, config, kept)
        del model  # before the next is loaded
        if not is_main_process():
            continue
        output = outputs[name]
        metrics = scores.by_field(results) | artifacts.record(settings)
        if config.questions:
            # As SQuAD has it, over all questions: groups may be of any size.
            metrics["average"] = scores.average(results)
        metrics["device"] = device_name(device)
        metrics["seconds"] = round(time.monotonic() - started, 1)
        with artifacts.recorded_file(output / "predictions.csv", metrics, output / "metrics.json") as aside:
            artifacts.fill_csv(aside, results)
        show(metrics, f"{len(results)} questions; {output}/predictions.csv, {output}/metrics.json")
        started = time.monotonic()


def fill_defaults(config) -> None:
    """Fill in what null stands for. Raises InputError if a key of the other kind of questions, people's or free
    ones, was given (but for `template`, which is set to null), or where what is needed is not there."""
    if config.questions:
        for key in ("dataset", "prompts", "people"):
            if config[key] is not None:
                raise InputError(f"{key}: leave it out; questions=... says what is asked")
        if config.template is None:
            raise InputError("still needed: template=..., which says how a question of questions=... is asked")
        questions.check_blanks("template", config.template, "question")
        config.examples = config.examples or config.questions
        return
    if config.group is not None:
        raise InputError("group: leave it out, or give questions=...; questions about people are scored by field")
    config.dataset = config.dataset or "data/biography_synthetic.csv"
    config.prompts = config.prompts or "data/prompts_questions.csv"
    for key in ("dataset", "prompts"):
        check_value(key, config[key], rules.file())
    config.template = None
    config.examples = config.examples or "data/biography_real.csv"


def questions_of(config) -> tuple[list[questions.Question], int]:
    """What is asked, and how many questions are not, since they have no answer; its defaults are filled in."""
    if config.questions:
        rows = free_questions.read(config.questions, config.group)
        pool = free_questions.read(config.examples) if config.shots else []
        asked = free_questions.ask(rows, pool, config.template, config.shots, config.seed)
        return asked, len(rows) - len(asked)
    prompts = questions.read_prompts(config.prompts)
    people = biography.read_people(config.dataset, prompts)
    pool = biography.read_people(config.examples, prompts) if config.shots else []
    first = config.people or len(people)
    return questions.ask(people, pool, prompts, config.shots, config.seed, first), 0


def outputs_of(model_dir: str | None, model: str | None, output_dir: str | None) -> dict[str, Path]:
    """Each checkpoint that is asked, in the order of their steps, and where its answers go."""
    checkpoints = rules.checkpoints_in(model_dir) if model_dir else []
    if checkpoints:
        return {str(path): Path(output_dir, path.name) if output_dir else path / "evaluation" for path in checkpoints}
    return {model_dir or model: Path(output_dir or Path(model_dir) / "evaluation")}


def answer(model, tokenizer, asked: list[questions.Question], config, kept: Kept) -> list[dict]:
    """A row of predictions.csv for each question, in every process; the processes share the work, and what an earlier
    run has kept of it is done."""
    from utils import answers, scores
    from utils.processes import broadcast, gathered, is_main_process, my_share, progress

    # Prepare data
    lengths = answers.answer_tokens(tokenizer, asked)
    limit = config.max_new_tokens or max(lengths)
    cut = sum(length > limit for length in lengths)
    if cut and is_main_process():
        longest = max(lengths)
        print(f"max_new_tokens={limit} cuts {cut} of {len(lengths)} gold answers short (the longest has {longest})")
    answers.check_questions(model, tokenizer, asked, max(limit, *lengths))
    # The longest: windows and chosen keys show beyond their length alone.
    answers.check_cache(model, tokenizer, max(asked, key=lambda question: len(question.prompt)))

    without = sum(not question.choices for question in asked)
    if config.choice and without and is_main_process():
        why = "their answers rarely repeat, or are all the same"
        print(f"choice: no answers to choose from for {without} of {len(asked)} questions: {why}")

    # Answer, but for whole batches that are done: an answer's last digits depend on its batch.
    answered: dict[int, tuple[str, float]] = {}
    chosen: dict[int, str] = {}
    for what, batch in broadcast(kept.read(config.resume) if is_main_process() else []):
        (answered if what == "answers" else chosen).update(batch)
    mine = my_share(list(range(len(asked))))
    prompted, golds = [asked[index].prompt for index in mine], [asked[index].answer for index in mine]
    done = {place for place, index in enumerate(mine) if index in answered}
    batch_tokens = config.batch_tokens or answers.BATCH_TOKENS["cpu" if model.device.type == "cpu" else "cuda"]
    to_ask = model, tokenizer, prompted, golds, limit, batch_tokens, done
    with progress("answers", total=len(mine)) as bar:
        for batch in answers.greedy_answers(*to_ask):
            found = {mine[place]: answer for place, answer in batch.items()}
            kept.add(["answers", list(found.items())])
            answered.update(found)
            bar.update(len(batch))
    choosing = [index for index in mine if config.choice and asked[index].choices]
    if choosing:
        prompted, choices = [asked[index].prompt for index in choosing], [asked[index].choices for index in choosing]
        done = {place for place, index in enumerate(choosing) if index in chosen}
        to_choose = model, tokenizer, prompted, choices, batch_tokens, done
        with progress("choices", total=len(choosing)) as bar:
            for batch in answers.choice_log_likelihoods(*to_choose):
                found = {
                    choosing[place]: choices[place][likelihoods.index(max(likelihoods))]
                    for place, likelihoods in batch.items()
                }
                kept.add(["choices", list(found.items())])
                chosen.update(found)
                bar.update(len(batch))
    answered, chosen = gathered(answered), gathered(chosen)

    # Score
    results = []
    for index, question in enumerate(asked):
        prediction, log_likelihood = answered[index]
        result = {
            "field": question.field,
            "name": question.name,
            "prompt": question.prompt,
            "answer": question.answer,
            "prediction": prediction,
            "exact_match": scores.best(scores.exact_match, prediction, question.accepted),
            "f1": scores.best(scores.f1, prediction, question.accepted),
            "log_likelihood": log_likelihood,
            "chosen": chosen.get(index),
        }
        if config.questions:
            accepted = json.dumps(question.accepted, ensure_ascii=False)
            result |= {"question": question.question, "accepted": accepted}
        results.append(result)
    return results


def show(metrics: dict, last_line: str) -> None:
    import pandas as pd

    # By position: a group may be called "average" as well.
    table = pd.DataFrame([*metrics["fields"].values(), metrics["average"]], [*metrics["fields"], "average"])
    print(table.dropna(axis=1, how="all").to_string(float_format=lambda value: f"{value:.2f}"))
    print(last_line)


if __name__ == "__main__":
    main()
