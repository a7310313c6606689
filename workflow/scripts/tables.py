"""Runs into a study, and the study into a table and its pictures (rule tables)."""

from pathlib import Path

from workflow.logs import logged
from workflow.results import add
from workflow.summary import summarize

if __name__ == "__main__":
    with logged(snakemake.log[0]):
        results = Path(snakemake.output[0]).parent
        add(Path(snakemake.params.made), results)
        summarize(snakemake.params.config, results)
