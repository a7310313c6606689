"""Stage 4: texts + model -> checkpoints, by continual pretraining.

    python train.py --config-name train.yaml model_dir=model_out

Several GPUs or processes: torchrun --nproc-per-node 2 train.py ...
"""

import hashlib
import os
import time
from pathlib import Path

from omegaconf import OmegaConf

from utils import artifacts, biography, next_stage, resume, rules, windows
from utils.arguments import check_fsdp, lora_arguments, training_arguments
from utils.model_source import context, load_config
from utils.script import script
from utils.tokenizer import load_tokenizer
from utils.tokens import embedding_rows
from utils.training_examples import check_causal, packing_collator, padding_collator, training_examples

RULES = {
    "model": rules.model(),
    "dataset": rules.file(or_folder=True),
    "text_column": rules.text(),
    "tags": rules.one_of("auto", True, False),
    "model_dir": rules.path(),
    "seed": rules.seed(),
    "resume": rules.boolean(),
    "dtype": rules.dtype(),
    "attn_implementation": rules.optional(rules.text()),
    "loss_on_blanks": rules.boolean(),
    "packing": rules.boolean(),
    "window": rules.optional(rules.integer(2)),
    "stride": rules.optional(rules.integer(1)),
    "trust_remote_code": rules.boolean(),
    "lora": rules.optional(rules.mapping()),
    "quant": rules.optional(rules.mapping()),
    "trainer": rules.mapping(),
}

# Of the sub-trees: what is not for the user to set.
FIXED = {
    "trainer.output_dir": "set model_dir=... instead",
    "trainer.seed": "set seed=... instead",
    "trainer.local_rank": "torchrun sets it",
    "trainer.hub_token": "it would be written to run.json; log in with: hf auth login",
    "trainer.resume_from_checkpoint": "resume=true resumes from model_dir's last checkpoint",
    "lora.task_type": "it is always CAUSAL_LM",
    "lora.peft_type": "it is always LORA",
    "lora.inference_mode": "such an adapter can't be trained",
}


@script("train", RULES, writes=["model_dir"], fixed=FIXED)
def main(config):
    started = time.monotonic()
    windows.check_stride(config)
    with artifacts.claimed("model_dir", Path(config.model_dir, "run.json"), dataset=config.dataset):
        train(config)
    if last := resume.last_checkpoint(Path(config.model_dir)):
        next_stage.announce(started, "evaluate", model_dir=str(last))
    else:
        next_stage.announce(started)


def train(config) -> None:
    """The stage itself, by a run that has model_dir for itself."""
    texts = [plain for plain, _ in biography.read(config.dataset, config.text_column, config.tags)]
    settings = OmegaConf.to_container(config)
    trained_on = {
        "texts_sha256": hashlib.sha256("\0".join(texts).encode("utf-8")).hexdigest(),
        # Each has a batch of its own; torchrun says how many they are.
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
    }
    earlier = resume.earlier_run(Path(config.model_dir), config.resume, trained_on["processes"])

    # torch and transformers take seconds to import: only once the input is known to be good.
    from transformers import set_seed

    from utils import trainer
    from utils.models import load_model, merged, trainable, weights_hash, weights_precision
    from utils.processes import is_main_process

    resume.check_resumed(earlier, settings, trained_on)
    arguments = training_arguments(settings["trainer"], config.model_dir, config.seed)
    if earlier.checkpoint and 0 < arguments.max_steps <= resume.steps_done(earlier.checkpoint):
        # The Trainer would take one step more where they do not end an epoch.
        if artifacts.is_first_process():
            print(f"Nothing left to do; the last checkpoint is {earlier.checkpoint}")
        return
    lora = lora_arguments(settings["lora"])
    quant = None if lora is None else settings["quant"]
    check_fsdp(arguments, quant)

    # LoRA's first weights are drawn below, so the seed comes first.
    set_seed(config.seed)

    # Prepare model
    tokenizer = load_tokenizer(config.model, config.trust_remote_code)
    window = windows.size(config.window, context(load_config(config.model, config.trust_remote_code)), config.model)
    precision = "float32" if config.dtype == "auto" and lora is None else config.dtype
    base_model = merged(
        load_model(
            config.model,
            precision,
            quant,
            config.trust_remote_code,
            place=not arguments.fsdp,
            attn_implementation=config.attn_implementation,
        )
    )
    if is_main_process():  # with FSDP no other has weights yet
        trained_on["weights_sha256"] = weights_hash(base_model)
        trained_on["weights_precision"] = weights_precision(base_model)
        resume.check_weights(earlier, trained_on["weights_sha256"], config.model)
    model = trainable(base_model, lora, config.model)

    # Prepare data
    rows = embedding_rows(model)
    examples, cut = training_examples(
        tokenizer, texts, window, config.stride, config.loss_on_blanks, rows, config.dataset
    )
    if is_main_process():
        check_causal(model, examples)
    if config.packing:
        collator = packing_collator(model, examples)
    else:
        collator = padding_collator(tokenizer, rows, config.model)

    # Train, saving checkpoints
    in_windows = f" ({cut} of more than {window} tokens: {len(examples)} windows in all)" if cut else ""
    begin = f"from {earlier.checkpoint}" if earlier.checkpoint else "from the start"
    description = f"{len(texts)} texts{in_windows}, {begin}"
    beginning = trainer.Beginning(model, description, earlier.broken, earlier.record, settings, trained_on)
    done = trainer.train(model, arguments, examples, collator, tokenizer, beginning, earlier.checkpoint)
    if not is_main_process():
        return
    last = resume.last_checkpoint(Path(config.model_dir))
    if last is not None and last == earlier.checkpoint:
        print(f"Nothing left to do; the last checkpoint is {last}")
    else:
        saved = f"the last checkpoint is {last}" if last else "no checkpoint was saved"
        since = f" since {earlier.checkpoint}" if earlier.checkpoint else ""
        print(f"{done.global_step} steps, mean loss {done.training_loss:.3f}{since}; {saved}")


if __name__ == "__main__":
    main()
