# Stage 4, for as many steps as make the table's budget.

from omegaconf import OmegaConf

from utils.script import CONFIG_FOLDER
from workflow.table import epochs_of, settings_of, training_of


def budget(wildcards) -> dict:
    """An arm's budget, in how many checkpoints, the windows of long texts, and what makes a step of training: the texts
    in a batch, the batches of a process, the processes."""
    train = training_of(config, wildcards.arm)
    default = OmegaConf.load(CONFIG_FOLDER / "train.yaml").trainer.per_device_train_batch_size
    return {
        "seen": {"epochs": epochs_of(config, wildcards.arm)} if config.get("epochs") else {"tokens": config["tokens"]},
        "checkpoints": config["checkpoints"],
        "window": train.get("window"),
        "stride": train.get("stride"),
        "step": {
            "batch": train.get("trainer.per_device_train_batch_size", default),
            "accumulated": train.get("trainer.gradient_accumulation_steps", 1),
            "processes": needs(config, "train")["processes"],
        },
    }


def rate(wildcards) -> dict:
    """The learning rate of a run, where the table searches over several."""
    return {"trainer.learning_rate": float(wildcards.rate.removeprefix(RATE))} if RATE else {}


localrules:
    run_record,


# How many steps of this arm's texts make the table's budget: one line, "<steps> <steps between checkpoints>
# <tokens a text> <texts a step>".
rule budget:
    input:
        model=folder_of(config["trained"]),
        texts=texts,
    output:
        f"{WORK}/{{arm}}-{{seed}}.budget",
    log:
        f"{WORK}/logs/budget-{{arm}}-{{seed}}.log",
    benchmark:
        f"{WORK}/benchmarks/budget-{{arm}}-{{seed}}.tsv"
    params:
        model=config["trained"],
        budget=budget,
    script:
        "../scripts/budget.py"


rule train:
    input:
        model=folder_of(config["trained"]),
        texts=texts,
        budget=f"{WORK}/{{arm}}-{{seed}}.budget",
    output:
        temp(directory(f"{WORK}/{{arm}}-{{seed}}{{rate}}.model")),
    log:
        f"{WORK}/logs/train-{{arm}}-{{seed}}{{rate}}.log",
    benchmark:
        f"{WORK}/benchmarks/train-{{arm}}-{{seed}}{{rate}}.tsv"
    params:
        launcher=launcher("train"),
        options=lambda wildcards, input: overrides(
            {"model": config["trained"], "dataset": input.texts, "seed": int(wildcards.seed)},
            {"trainer.save_strategy": "steps", "trainer.save_only_model": True},
            training_of(config, wildcards.arm),
            rate(wildcards),
        ),
    threads: needs(config, "train")["threads"]
    resources:
        **resources("train"),
        gpu_jobs=1,
    shell:
        with_log(
            "read -r steps each rest < {input.budget} &&"
            " {params.launcher} train.py model_dir={output}"
            " trainer.max_steps=$steps ++trainer.save_steps=$each {params.options}"
        )


# What was trained on, and how the loss went.
rule run_record:
    input:
        model=f"{WORK}/{{arm}}-{{seed}}{{rate}}.model",
        budget=f"{WORK}/{{arm}}-{{seed}}.budget",
        augmented=lambda wildcards: (
            f"data_augmented/{TABLE}/{wildcards.arm}-{wildcards.seed}.json" if augmentation_of(config, wildcards.arm) else []
        ),
    output:
        f"{RUNS}/{{arm}}/seed-{{seed}}{{rate}}/run.json",
    log:
        f"{WORK}/logs/run_record-{{arm}}-{{seed}}{{rate}}.log",
    benchmark:
        f"{WORK}/benchmarks/run_record-{{arm}}-{{seed}}{{rate}}.tsv"
    params:
        settings=lambda wildcards: settings_of(config, wildcards.arm),
    script:
        "../scripts/run_record.py"
