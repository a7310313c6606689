"""What the tests share: no hub, and one tiny model folder for the whole run."""

import argparse
import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Before anything imports the hub's client: a test that reaches for a hub is to fail at once, and so are its processes,
# with a network as without one. Nobody listens at this address.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
os.environ["HYDRA_FULL_ERROR"] = "1"
# Tiny models gain nothing from a second thread, which spins while it waits.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from hypothesis import settings

# The same examples each time, so that what fails here fails everywhere; `pytest --hypothesis-profile others` looks for
# others. No deadline: a machine may be busy.
settings.register_profile("others", deadline=None)
settings.register_profile("repeated", derandomize=True, deadline=None)
settings.load_profile("repeated")


def pytest_configure(config) -> None:
    """Hide the GPU, except from the tests of the GPU, and proxies, which may lead to a hub, except from those that
    install packages."""
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if config.getoption("markexpr") != "slurm":
        for proxy in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            os.environ.pop(proxy, None)


ROOT = Path(__file__).resolve().parent.parent


def heed_hangups() -> None:
    """In a new process: SIGHUP ends it, as it does unless the tests run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def script_here(monkeypatch) -> Iterator[None]:
    """A script may run in this process: what it changes of its process is put back."""
    monkeypatch.setattr(argparse.ArgumentParser, "error", argparse.ArgumentParser.error)
    monkeypatch.setitem(sys.modules, "kernels", None)
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")
    collected = gc.get_threshold()
    yield
    gc.set_threshold(*collected)


# As it is typed.
SNAKEMAKE = Path(sys.executable).with_name("snakemake")


def squad(paragraphs: int) -> dict:
    """SQuAD's JSON, in two articles. Of each five paragraphs the first is asked about once, the second twice and so on;
    the fifth's questions have no answer."""

    def paragraph(number: int) -> dict:
        asked = [f"Which is number {number}, in {way} words?" for way in range(1 + number % 5)]
        answers = [{"text": f"the {number}th", "answer_start": 0}, {"text": str(number), "answer_start": 4}]
        qas = [{"question": question, "answers": [] if number % 5 == 4 else answers} for question in asked]
        return {"context": f"The {number}th of them – “{number}”.", "qas": qas}

    made = [paragraph(number) for number in range(paragraphs)]
    half = paragraphs // 2
    return {"data": [{"title": "One", "paragraphs": made[:half]}, {"title": "Two", "paragraphs": made[half:]}]}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A folder with a tiny random Llama and its tokenizer."""
    from tests import tiny

    return tiny.save(tmp_path_factory.mktemp("models") / "tiny-llama", "llama")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with the scripts and what they need, where commands run as in a clone and leave their files."""
    folder = tmp_path_factory.mktemp("clone")
    for script in ROOT.glob("*.py"):
        shutil.copy(script, folder)
    for name in ("conf", "data", "utils"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory, pytestconfig) -> Iterator[Path]:
    """An executable that is called as `python` is, and has imported torch and the like already: see tests/warm.py."""
    if pytestconfig.getoption("markexpr") == "gpu":
        yield Path(sys.executable)  # a GPU may be lost in a fork
        return
    folder = tmp_path_factory.mktemp("warm")
    command = [sys.executable, ROOT / "tests/warm.py", folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout.readline() == "warm\n"
        yield folder / "python"
        server.terminate()


@pytest.fixture(scope="module")
def run(workplace, warm_python):
    """Run a command line in the workplace and return its CompletedProcess; any exit code but `code` fails the test."""

    def run_command(command: list[str] | str, code: int = 0, **environment: str) -> subprocess.CompletedProcess:
        arguments = command.split() if isinstance(command, str) else command
        if arguments[:2] == ["python", "-X"]:
            # What is imported is looked at.
            arguments = [sys.executable, *arguments[1:]]
        elif arguments[0] == "python":
            arguments = [warm_python, *arguments[1:]]
        elif arguments[0] == "torchrun":
            arguments = [warm_python, "-m", "torch.distributed.run", *arguments[1:]]
        done = subprocess.run(
            arguments, cwd=workplace, env=os.environ | environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    return run_command
