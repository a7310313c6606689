"""A small part of `make chaos`."""

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# Each kind of fault; train.py takes longer than the others.
SLOW = pytest.param("train", 3, marks=pytest.mark.slow)


@pytest.mark.parametrize(("script", "faults"), [("save_attention", 9), SLOW])
def test_faults_leave_what_they_should(script, faults):
    command = [sys.executable, "-m", "tests.chaos", str(faults), "3", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    assert re.search(rf"^{faults} faults in \d+ s; after 0 something was wrong$", done.stdout, re.MULTILINE)
