"""A table and its pictures (rule tables)."""

from pathlib import Path

from workflow.logs import logged
from workflow.summary import summarize

if __name__ == "__main__":
    with logged(snakemake.log[0]):
        summarize(snakemake.params.config, Path(snakemake.output[0]).parent)
