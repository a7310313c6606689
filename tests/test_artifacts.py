"""Whole files or none, and the record beside each artifact."""

import csv
import json
import platform
import subprocess
from pathlib import Path

import numpy as np
import pytest

from utils import artifacts
from utils.errors import InputError


def test_whole_file_takes_the_place_of_the_old_one_at_the_end(tmp_path):
    path = tmp_path / "new folder" / "file.txt"
    for content in ("first", "second"):
        before = path.read_text() if path.exists() else None
        with artifacts.whole_file(path) as aside:
            aside.write_text(content)
            assert (path.read_text() if path.exists() else None) == before
        assert path.read_text() == content
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("old", ["old", None])
def test_a_body_that_raises_leaves_no_trace(tmp_path, error, old):
    path = tmp_path / "file.txt"
    if old is not None:
        path.write_text(old)
    with pytest.raises(error), artifacts.whole_file(path) as aside:
        aside.write_text("half")
        raise error
    assert [left.read_text() for left in tmp_path.iterdir()] == ([] if old is None else [old])


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    artifacts.write_json(path, {"name": "Zoë", "loss": None})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "Zoë", "loss": None}
    before = path.read_bytes()
    with pytest.raises(TypeError):
        artifacts.write_json(path, {"name": np.zeros(1)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_record_holds_configuration_versions_and_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "PACKAGES", (*artifacts.PACKAGES, "no-such-package"))
    config = {"seed": 1, "lora": {"r": 16}, "quant": None}
    record = artifacts.record(config)
    assert set(record) == {"config", "versions", "commit"}
    assert record["config"] == config
    assert record["versions"]["python"] == platform.python_version()
    assert record["versions"]["numpy"] == np.__version__
    assert record["versions"]["no-such-package"] is None
    artifacts.write_json(tmp_path / "run.json", record)
    assert json.loads((tmp_path / "run.json").read_text()) == record


def test_commit_is_the_whole_hash_and_tells_changed_files(tmp_path, monkeypatch):
    def git(*arguments):
        settings = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "tag.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *settings, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(artifacts, "REPOSITORY", tmp_path)
    assert artifacts.commit() is None
    git("init")
    (tmp_path / "file.txt").write_text("one")
    git("add", "file.txt")
    git("commit", "--no-gpg-sign", "-m", "first")
    git("tag", "v1")
    head = git("rev-parse", "HEAD")
    assert artifacts.commit() == head and len(head) == 40
    (tmp_path / "untracked.txt").write_text("data")
    assert artifacts.commit() == head
    (tmp_path / "file.txt").write_text("two")
    assert artifacts.commit() == f"{head}-dirty"


def test_a_csv_keeps_what_stands_in_its_cells(tmp_path):
    """A lone carriage return too, which Python before 3.11.9 leaves unquoted."""
    cells = ["plain", "a, b", 'say "x"', "two\nlines", "half\rof it", "\r", "007", "None", " spaces ", "Zoë 🙂"]
    path = tmp_path / "cells.csv"
    for chosen in (cells, cells[:4]):
        rows = [{"answer": cell, "chosen": None, "f1": 0.1} for cell in chosen]
        artifacts.write_csv(path, rows)
        with open(path, newline="", encoding="utf-8") as opened:
            assert list(csv.DictReader(opened)) == [{"answer": cell, "chosen": "", "f1": "0.1"} for cell in chosen]
    # What no reader could mistake has the quotes that it needs, and no more.
    assert path.read_text().splitlines()[:3] == ["answer,chosen,f1", "plain,,0.1", '"a, b",,0.1']


def test_the_longest_name_is_written_and_a_longer_one_refused_at_once(tmp_path):
    longest = tmp_path / ("ü" * 120 + "x" * 10 + ".json")
    artifacts.check_writable("name", longest)
    artifacts.write_json(longest, {})
    assert [path.name for path in tmp_path.iterdir()] == [longest.name]
    for path in (tmp_path / ("x" * 256), tmp_path / "new" / ("x" * 256) / "out.csv", Path("x" * 5000)):
        with pytest.raises(InputError, match="^name: .* can't be written: File name too long$"):
            artifacts.check_writable("name", longest, path)
    assert not (tmp_path / "new").exists()
