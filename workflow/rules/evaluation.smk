# Stage 5.

from workflow.table import asked_by

# If the questions are not committed, neither are the answers.
SHOWN = "digests" if config.get("made_by") else "words"


# All checkpoints of a run in one job; part p of n is the one after p n-ths of the budget. Each evaluation is a job of its
# own, which loads the model again: evaluate.py asks in one way.
rule evaluate:
    input:
        f"{WORK}/{{arm}}-{{seed}}{{rate}}.model",
    output:
        [
            f"{RUNS}/{{arm}}/seed-{{seed}}{{rate}}/{{evaluation}}/{part}/metrics.json"
            for part in range(1, config["checkpoints"] + 1)
        ],
    log:
        f"{WORK}/logs/evaluate-{{arm}}-{{seed}}{{rate}}-{{evaluation}}.log",
    benchmark:
        f"{WORK}/benchmarks/evaluate-{{arm}}-{{seed}}{{rate}}-{{evaluation}}.tsv"
    params:
        # Inside the model's folder, so that they are deleted with it.
        answers=f"{WORK}/{{arm}}-{{seed}}{{rate}}.model/{{evaluation}}",
        results=f"{RUNS}/{{arm}}/seed-{{seed}}{{rate}}/{{evaluation}}",
        options=lambda wildcards: overrides(asked_by(config, wildcards.evaluation), {"resume": True}),
        kept="each" if config.get("epochs") else "last",
    threads: needs(config, "evaluate")["threads"]
    resources:
        **resources("evaluate"),
        gpu_jobs=1,
    shell:
        with_log(
            "{PYTHON} evaluate.py model_dir={input} output_dir={params.answers} {params.options} &&"
            " {PYTHON} -m workflow.scripts.trim {params.answers} {params.results} {params.kept} {SHOWN}"
        )


# The model before any training.
rule evaluate_untrained:
    input:
        folder_of(config["trained"]),
    output:
        f"{RUNS}/untrained/{{evaluation}}/metrics.json",
    log:
        f"{WORK}/logs/evaluate_untrained-{{evaluation}}.log",
    benchmark:
        f"{WORK}/benchmarks/evaluate_untrained-{{evaluation}}.tsv"
    params:
        answers=f"{WORK}/untrained-{{evaluation}}.answers",
        options=lambda wildcards: overrides(
            {"model": config["trained"], "resume": True}, asked_by(config, wildcards.evaluation)
        ),
    threads: needs(config, "evaluate")["threads"]
    resources:
        **resources("evaluate"),
        gpu_jobs=1,
    shell:
        with_log(
            "{PYTHON} evaluate.py output_dir={params.answers} {params.options} &&"
            " {PYTHON} -m workflow.scripts.trim {params.answers} $(dirname {output}) last {SHOWN}"
        )
