# The paper's Figures 1 to 3, as PNG and CSV in results/figures/: make figures, or
#
#     snakemake --snakefile workflow/figures.smk --configfile conf/figures.yaml --cores 2        (-n shows what would run)
#
# The dumps go to tables_out/figures/. results/figures/ranks_*.csv hold what is drawn from them, so that in a fresh clone
# the pictures are made again without a model.

import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir).parent))
from utils import artifacts
from utils.errors import InputError
from workflow.ranks import CONDITIONS, FIELDS, check_figures
from workflow.table import on_command_line, plain_paths

try:
    config = plain_paths(config)
    check_figures(config, Path("results/figures"))
except InputError as error:
    raise WorkflowError(str(error)) from None

WORK, RESULTS = "tables_out/figures", "results/figures"
PYTHON = shlex.quote(sys.executable)
RANKS = [f"{RESULTS}/ranks_{condition}.csv" for condition in CONDITIONS]
# What is done is left out, so that the dumps it was made of, which are not committed, are not made again.
TO_DO = [path for path in RANKS if not Path(path).exists()]


wildcard_constraints:
    condition="|".join(CONDITIONS),
    field="|".join(FIELDS),
    size="large|small",


localrules:
    all,
    one_field,
    ranks,
    figures,


rule all:
    input:
        f"{RESULTS}/figures.md",


include: "models.smk"


rule one_field:
    input:
        config["dataset"],
    output:
        f"{WORK}/{{condition}}_{{field}}.csv",
    params:
        prefix=lambda wildcards: shlex.quote(CONDITIONS[wildcards.condition]),
    shell:
        "{PYTHON} workflow/one_field.py {input:q} {wildcards.field} {params.prefix} {output}"


rule attention:
    input:
        texts=f"{WORK}/{{condition}}_{{field}}.csv",
        model=lambda wildcards: folder_of(config[wildcards.size]),
    output:
        f"{WORK}/{{size}}_{{condition}}_{{field}}.pkl",
    params:
        options=lambda wildcards: " ".join(
            shlex.quote(on_command_line(key, value))
            for key, value in ({"model": config[wildcards.size]} | (config["save_attention"] or {})).items()
        ),
    threads: 1
    shell:
        "{PYTHON} save_attention.py dataset={input.texts} queries=before_fields resume=true"
        " save_name={WORK}/{wildcards.size}_{wildcards.condition}_{wildcards.field} {params.options}"


rule ranks:
    input:
        [f"{WORK}/{size}_{{condition}}_{field}.pkl" for size in ("large", "small") for field in FIELDS],
    output:
        f"{RESULTS}/ranks_{{condition}}.csv",
        f"{RESULTS}/ranks_{{condition}}.json",
    params:
        config=config,
    run:
        from workflow.ranks import ranks

        rows = ranks(params.config["dataset"], WORK, wildcards.condition)
        artifacts.write_csv(Path(output[0]), rows)
        artifacts.write_json(Path(output[1]), artifacts.record(params.config))


rule figures:
    input:
        TO_DO,
    output:
        f"{RESULTS}/figures.md",
    params:
        config=config,
    run:
        from workflow.figures import figures

        figures(params.config, Path(RESULTS))
