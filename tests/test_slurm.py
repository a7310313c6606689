"""The smoke table, two arms of it, through a real Slurm of one node: make test-slurm (Debian, as root; it installs
slurm-wlm)."""

import shutil
import subprocess
import sys

import pytest
import yaml

from tests import tiny
from tests.conftest import ROOT


@pytest.mark.slurm
def test_the_smoke_table_goes_through_slurm(workplace):
    shutil.copytree(ROOT / "workflow", workplace / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    tiny.save_pair(workplace / "tables_out/tiny_models")
    table = yaml.safe_load((ROOT / "conf/tables/smoke.yaml").read_text(encoding="utf-8"))
    table["arms"] = {arm: table["arms"][arm] for arm in ("none", "difference")}
    table["against"] = ["none"]
    # One job may use several processes, each on a GPU where there are any.
    table["resources"]["train"]["processes"] = 2
    (workplace / "table.yaml").write_text(yaml.safe_dump(table), encoding="utf-8")
    subprocess.run([ROOT / "tests/slurm/start.sh"], check=True)
    command = [sys.executable, "-m", "snakemake", "--profile", "workflow/profiles/slurm"]
    done = subprocess.run(
        # sacct, the default where it is installed, needs a Slurm with accounting.
        [*command, "--configfile", "table.yaml", "--slurm-status-command", "squeue"],
        cwd=workplace,
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (workplace / "results/smoke/table.md").is_file()
    submitted = (done.stdout + done.stderr).count("has been submitted with SLURM jobid")
    # Two models' attention, and for each arm and seed a budget, a training and an evaluation.
    assert submitted >= 2 + 2 * 2 * 3
