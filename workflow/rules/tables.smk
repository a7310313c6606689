# The table and its pictures.

from workflow.table import dumps_of


localrules:
    tables,


# One text, token by token, under each arm's keep-probabilities.
rule keep_probabilities:
    input:
        [f"{WORK}/{dump}.pkl" for dump in dumps_of(config)],
    output:
        f"{RESULTS}/keep_probabilities.json",
    log:
        f"{WORK}/logs/keep_probabilities.log",
    params:
        config=config,
        dumps=WORK,
    script:
        "../scripts/keep_probabilities.py"


rule tables:
    input:
        TO_DO,
    output:
        f"{RESULTS}/table.md",
        f"{RESULTS}/table.csv",
        f"{RESULTS}/table.tex",
        f"{RESULTS}/scores.png",
        f"{RESULTS}/curves.png",
        f"{RESULTS}/keep_probabilities.png",
    log:
        f"{WORK}/logs/tables.log",
    params:
        config=config,
        results=RESULTS,
    script:
        "../scripts/tables.py"
