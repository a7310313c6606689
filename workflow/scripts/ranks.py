"""Which tokens hold which ranks, under one condition (rule ranks)."""

from pathlib import Path

from utils.artifacts import record, write_csv, write_json
from workflow.logs import logged
from workflow.ranks import ranks

if __name__ == "__main__":
    with logged(snakemake.log[0]):
        config = snakemake.params.config
        rows = ranks(config["dataset"], Path(snakemake.input[0]).parent, snakemake.wildcards.condition)
        write_csv(Path(snakemake.output[0]), rows)
        write_json(Path(snakemake.output[1]), record(config))
