"""The paper's Figures 1 to 3 (rule figures)."""

from pathlib import Path

from workflow.figures import figures
from workflow.logs import logged

if __name__ == "__main__":
    with logged(snakemake.log[0]):
        figures(snakemake.params.config, Path(snakemake.output[0]).parent)
