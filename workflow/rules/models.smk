# The models that tables of this machine's scale need; each is made when a run first needs it.

import re

SCRATCH = "tables_out/scratch"

# Epochs over the corpus: the large model is slower, so it gets fewer.
EPOCHS = {"small": 30, "large": 15}

# By demo/fetch_models.py.
FETCHED = ["smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"]
MADE = [*(f"models/{name}" for name in FETCHED), *(f"{SCRATCH}/{size}" for size in EPOCHS)]


def folder_of(model: str) -> list[str]:
    """The folder that a rule here makes for `model`; none for a hub's model, or a reader's own."""
    return ancient([folder for folder in MADE if model == folder or model.startswith(f"{folder}/")])


rule fetch_model:
    output:
        directory("models/{name}"),
    log:
        "tables_out/logs/fetch_model-{name}.log",
    benchmark:
        "tables_out/benchmarks/fetch_model-{name}.tsv"
    wildcard_constraints:
        name="|".join(map(re.escape, FETCHED)),
    resources:
        # To convert the largest, 5.6 GB.
        mem_mb=8000,
    shell:
        with_log("{PYTHON} demo/fetch_models.py {wildcards.name}")


rule scratch_people:
    output:
        f"{SCRATCH}/people.csv",
    log:
        f"{SCRATCH}/logs/scratch_people.log",
    benchmark:
        f"{SCRATCH}/benchmarks/scratch_people.tsv"
    shell:
        with_log("{PYTHON} data/make_synthetic.py --seed 2 --people 1000 --output {output}")


rule scratch_corpus:
    input:
        people=f"{SCRATCH}/people.csv",
    output:
        f"{SCRATCH}/corpus.csv",
        directory(expand(f"{SCRATCH}/random_{{size}}", size=EPOCHS)),
    log:
        f"{SCRATCH}/logs/scratch_corpus.log",
    benchmark:
        f"{SCRATCH}/benchmarks/scratch_corpus.tsv"
    params:
        apart="data/biography_synthetic.csv",
        folder=SCRATCH,
    script:
        "../scripts/scratch_models.py"


# 28 minutes for the small one on one core; the large one, at one step a second, takes as long.
rule scratch_model:
    input:
        corpus=f"{SCRATCH}/corpus.csv",
        random=f"{SCRATCH}/random_{{size}}",
    output:
        directory(f"{SCRATCH}/{{size}}"),
    log:
        f"{SCRATCH}/logs/scratch_model-{{size}}.log",
    benchmark:
        f"{SCRATCH}/benchmarks/scratch_model-{{size}}.tsv"
    wildcard_constraints:
        size="small|large",
    params:
        epochs=lambda wildcards: EPOCHS[wildcards.size],
    shell:
        with_log(
            "{PYTHON} train.py model={input.random} dataset={input.corpus} model_dir={output} lora=null quant=null"
            " attn_implementation=eager trainer.num_train_epochs={params.epochs} trainer.learning_rate=0.003"
            " trainer.per_device_train_batch_size=16 trainer.bf16=false +trainer.adam_beta2=0.95 +trainer.save_total_limit=1"
        )
