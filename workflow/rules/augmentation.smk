# Stage 3.

from workflow.table import augmentation_of


rule augmentation:
    input:
        config["dataset"],
        model=folder_of(config["trained"]),
        weights=weights,
    output:
        f"data_augmented/{TABLE}/{{arm}}-{{seed}}.csv",
        f"data_augmented/{TABLE}/{{arm}}-{{seed}}.json",
    log:
        f"{WORK}/logs/augmentation-{{arm}}-{{seed}}.log",
    benchmark:
        f"{WORK}/benchmarks/augmentation-{{arm}}-{{seed}}.tsv"
    params:
        options=lambda wildcards, input: overrides(
            {"model": config["trained"], "dataset": config["dataset"], "seed": int(wildcards.seed), "resume": True},
            augmentation_of(config, wildcards.arm),
            {"attn_weights": input.weights[0]} if input.weights else {},
        ),
    shell:
        with_log(
            "{PYTHON} data_augmentation.py save_name={TABLE}/{wildcards.arm}-{wildcards.seed} {params.options}"
        )
