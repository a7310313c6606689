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
    benchmark:
        f"{WORK}/benchmarks/keep_probabilities.tsv"
    params:
        config=config,
        dumps=WORK,
    script:
        "../scripts/keep_probabilities.py"


# Its runs, also those of an interrupted table that wait to be added, go into results/<table>/ first.
rule tables:
    input:
        TO_DO,
        sorted(map(str, RUNS.rglob("predictions.csv"))),
    output:
        f"{RESULTS}/table.md",
        f"{RESULTS}/table.csv",
        f"{RESULTS}/table.tex",
        f"{RESULTS}/scores.png",
        f"{RESULTS}/curves.png",
        f"{RESULTS}/keep_probabilities.png",
    log:
        f"{WORK}/logs/tables.log",
    benchmark:
        f"{WORK}/benchmarks/tables.tsv"
    params:
        config=config,
        made=RUNS,
    script:
        "../scripts/tables.py"
