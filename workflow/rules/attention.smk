# Stages 1 and 2, and what stands for a difference in the control arms.


rule attention:
    input:
        config["dataset"],
        lambda wildcards: folder_of(config[wildcards.size]),
    output:
        f"{WORK}/attention_{{size}}{{queries}}.pkl",
    log:
        f"{WORK}/logs/attention-{{size}}{{queries}}.log",
    benchmark:
        f"{WORK}/benchmarks/attention-{{size}}{{queries}}.tsv"
    wildcard_constraints:
        size="large|small",
        queries="(_before_fields)?",
    params:
        launcher=lambda wildcards: launcher(f"attention_{wildcards.size}"),
        options=lambda wildcards: overrides(
            {"model": config[wildcards.size], "dataset": config["dataset"], "resume": True},
            section("save_attention"),
            {"queries": "before_fields"} if wildcards.queries else {},
        ),
    threads: of_size("threads")
    resources:
        **{key: of_size(key) for key in resources("attention") | resources("attention_small")},
        gpu_jobs=1,
    shell:
        with_log(
            "{params.launcher} save_attention.py save_name={WORK}/attention_{wildcards.size}{wildcards.queries} {params.options}"
        )


rule contrast:
    input:
        f"{WORK}/attention_large{{queries}}.pkl",
        f"{WORK}/attention_small{{queries}}.pkl",
    output:
        f"{WORK}/{{operation}}{{queries}}.pkl",
    log:
        f"{WORK}/logs/contrast-{{operation}}{{queries}}.log",
    benchmark:
        f"{WORK}/benchmarks/contrast-{{operation}}{{queries}}.tsv"
    wildcard_constraints:
        operation="difference|log_ratio",
        queries="(_before_fields)?",
    params:
        options=overrides({"target": config["target"]}),
    shell:
        with_log(
            "{PYTHON} contrast_attention.py attn_dump_large={WORK}/attention_large{wildcards.queries}"
            " attn_dump_small={WORK}/attention_small{wildcards.queries} attn_diff={WORK}/{wildcards.operation}{wildcards.queries}"
            " operation={wildcards.operation} {params.options}"
        )


# The same tokens, the opposite sign: the two dumps swapped.
rule contrast_reversed:
    input:
        f"{WORK}/attention_large.pkl",
        f"{WORK}/attention_small.pkl",
    output:
        f"{WORK}/difference_reversed.pkl",
    log:
        f"{WORK}/logs/contrast_reversed.log",
    benchmark:
        f"{WORK}/benchmarks/contrast_reversed.tsv"
    params:
        options=overrides({"target": "large" if config["target"] == "small" else "small"}),
    shell:
        with_log(
            "{PYTHON} contrast_attention.py attn_dump_large={WORK}/attention_small attn_dump_small={WORK}/attention_large"
            " attn_diff={WORK}/difference_reversed {params.options}"
        )


rule control_weights:
    input:
        difference=f"{WORK}/difference.pkl",
    output:
        f"{WORK}/{{control}}-{{seed}}.pkl",
    log:
        f"{WORK}/logs/control_weights-{{control}}-{{seed}}.log",
    benchmark:
        f"{WORK}/benchmarks/control_weights-{{control}}-{{seed}}.tsv"
    wildcard_constraints:
        control="shuffled|facts|name_first",
    params:
        dataset=config["dataset"],
    script:
        "../scripts/control_weights.py"
