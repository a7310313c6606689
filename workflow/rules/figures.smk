# The paper's Figures 1 to 3, as PNG and CSV in results/figures/: make figures.
#
# The dumps go to tables_out/figures/. results/figures/ranks_*.csv hold what is drawn from them, so that in a fresh clone
# the pictures are made again without a model.

from workflow.ranks import CONDITIONS, FIELDS, check_figures

try:
    config = plain_paths(config)
    check_figures(config, Path("results/figures"))
except InputError as error:
    raise WorkflowError(str(error)) from None

WORK, RESULTS = "tables_out/figures", "results/figures"
RANKS = [f"{RESULTS}/ranks_{condition}.csv" for condition in CONDITIONS]
# Finished results are left out, so that their uncommitted dumps are not made again.
TO_DO = [path for path in RANKS if not Path(path).exists()]
TARGETS = [f"{RESULTS}/figures.md"]


wildcard_constraints:
    condition="|".join(CONDITIONS),
    field="|".join(FIELDS),
    size="large|small",


localrules:
    one_field,
    ranks,
    figures,


rule one_field:
    input:
        config["dataset"],
    output:
        f"{WORK}/{{condition}}_{{field}}.csv",
    log:
        f"{WORK}/logs/one_field-{{condition}}-{{field}}.log",
    benchmark:
        f"{WORK}/benchmarks/one_field-{{condition}}-{{field}}.tsv"
    params:
        prefix=lambda wildcards: CONDITIONS[wildcards.condition],
    script:
        "../scripts/one_field.py"


rule attention:
    input:
        texts=f"{WORK}/{{condition}}_{{field}}.csv",
        model=lambda wildcards: folder_of(config[wildcards.size]),
    output:
        f"{WORK}/{{size}}_{{condition}}_{{field}}.pkl",
    log:
        f"{WORK}/logs/attention-{{size}}-{{condition}}-{{field}}.log",
    benchmark:
        f"{WORK}/benchmarks/attention-{{size}}-{{condition}}-{{field}}.tsv"
    params:
        options=lambda wildcards: overrides({"model": config[wildcards.size]}, config["save_attention"] or {}),
    threads: 1
    resources:
        gpu_jobs=1,
    shell:
        with_log(
            "{PYTHON} save_attention.py dataset={input.texts} queries=before_fields resume=true"
            " save_name={WORK}/{wildcards.size}_{wildcards.condition}_{wildcards.field} {params.options}"
        )


rule ranks:
    input:
        [f"{WORK}/{size}_{{condition}}_{field}.pkl" for size in ("large", "small") for field in FIELDS],
    output:
        f"{RESULTS}/ranks_{{condition}}.csv",
        f"{RESULTS}/ranks_{{condition}}.json",
    log:
        f"{WORK}/logs/ranks-{{condition}}.log",
    benchmark:
        f"{WORK}/benchmarks/ranks-{{condition}}.tsv"
    params:
        config=config,
    script:
        "../scripts/ranks.py"


rule figures:
    input:
        TO_DO,
    output:
        f"{RESULTS}/figures.md",
    log:
        f"{WORK}/logs/figures.log",
    benchmark:
        f"{WORK}/benchmarks/figures.tsv"
    params:
        config=config,
    script:
        "../scripts/figures.py"
