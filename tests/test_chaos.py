"""A small part of `make chaos`: each kind of fault in each stage that computes for long."""

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("script", ["save_attention", "train"])
def test_faults_leave_what_they_should(script):
    command = [sys.executable, "-m", "tests.chaos", "9", "3", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    assert re.search(r"^9 faults in \d+ s; after 0 something was wrong$", done.stdout, re.MULTILINE)
