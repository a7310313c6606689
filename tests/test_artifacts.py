"""Whole files or none, and the record beside each artifact."""

import json
import platform
import subprocess

import numpy as np
import pytest

from utils import artifacts


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
