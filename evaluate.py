"""Stage 5: checkpoint + questions -> answers and scores.

    python evaluate.py --config-name evaluate.yaml +model_dir=model_out/checkpoint-130

The base model, without a checkpoint: python evaluate.py model=meta-llama/Meta-Llama-3-8B output_dir=base_evaluation

Several processes share the questions: torchrun --nproc-per-node 2 evaluate.py ...
"""

import time
from pathlib import Path

from utils import artifacts, biography, questions
from utils.config import (
    boolean,
    checkpoint,
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
    "batch_size": integer(1),
    "dtype": dtype(),
    "quant": optional(mapping()),
    "device_map": optional(text_or_mapping),
    "max_memory": optional(mapping()),
    "trust_remote_code": boolean(),
}


@script("evaluate", RULES, writes=["output_dir", "model_dir"])
def main(config):
    started = time.monotonic()
    if config.model_dir is None and config.model is None:
        raise InputError("still needed: model_dir=<checkpoint>, or model=<base model> and output_dir=...")
    if config.model_dir is None and config.output_dir is None:
        raise InputError("still needed: output_dir=..., since there is no model_dir to write to")
    output = Path(config.output_dir or Path(config.model_dir) / "evaluation")
    artifacts.check_writable("output_dir", output / "metrics.json", output / "predictions.csv")
    prompts = questions.read_prompts(config.prompts)
    people = biography.read_people(config.dataset, prompts)
    pool = biography.read_people(config.examples, prompts) if config.shots else []
    asked = questions.ask(people, pool, prompts, config.shots, config.seed, config.people or len(people))

    # torch and transformers take seconds to import: only once the input is known to be good.
    import pandas as pd
    import torch
    from omegaconf import OmegaConf

    from utils import answers, scores, tokens
    from utils.models import load_model
    from utils.processes import gathered, is_main_process, my_share, progress

    # Prepare model
    checkpoint = config.model_dir or config.model
    base = config.model if config.model_dir else None
    if base and tokens.adapter_base(checkpoint) is None:
        raise InputError(f"model={base}: leave it out; model_dir={checkpoint} holds a whole model, not an adapter")
    tokenizer = tokens.load_tokenizer(checkpoint, config.trust_remote_code, base)
    placed = {"device_map": config.device_map, "max_memory": config.max_memory}
    language_model = load_model(
        checkpoint, config.dtype, config.quant, config.trust_remote_code, base=base, placed=placed
    )

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

    # Answer
    mine = my_share(list(range(len(asked))))
    answered: dict[int, tuple[str, float]] = {}
    with progress("answers", total=len(mine)) as bar:
        prompted, golds = [asked[index].prompt for index in mine], [asked[index].answer for index in mine]
        for batch in answers.greedy_answers(language_model, tokenizer, prompted, golds, limit, config.batch_size):
            answered.update({mine[place]: answer for place, answer in batch.items()})
            bar.update(len(batch))
    chosen: dict[int, str] = {}
    for index in progress("choices", mine) if config.choice else ():
        choices = asked[index].choices
        found = answers.log_likelihoods(language_model, tokenizer, asked[index].prompt, choices, config.batch_size)
        chosen[index] = choices[found.index(max(found))]
    answered, chosen = gathered(answered), gathered(chosen)
    if not is_main_process():
        return

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
    metrics = scores.by_field(results)

    # Save
    artifacts.write_csv(output / "predictions.csv", results)
    metrics |= artifacts.record(OmegaConf.to_container(config))
    device = language_model.device.type
    metrics["device"] = f"{device} {torch.cuda.get_device_name()}" if device == "cuda" else device
    metrics["seconds"] = round(time.monotonic() - started, 1)
    artifacts.write_json(output / "metrics.json", metrics)

    table = pd.DataFrame(metrics["fields"] | {"average": metrics["average"]}).T
    print(table.dropna(axis=1, how="all").to_string(float_format=lambda value: f"{value:.2f}"))
    print(f"{len(results)} questions; {output}/predictions.csv, {output}/metrics.json")


if __name__ == "__main__":
    main()
