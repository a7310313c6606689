"""Whole files or none, and the record beside each artifact."""

import csv
import errno
import hashlib
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import heed_hangups
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
    monkeypatch.setattr(artifacts, "versions", artifacts.versions.__wrapped__)
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
    commit = artifacts.commit.__wrapped__
    assert commit() is None
    git("init")
    # Unpacked within another's checkout.
    (tmp_path / "inside").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "REPOSITORY", tmp_path / "inside")
        assert commit() is None
    (tmp_path / "file.txt").write_text("one")
    git("add", "file.txt")
    git("commit", "--no-gpg-sign", "-m", "first")
    git("tag", "v1")
    head = git("rev-parse", "HEAD")
    assert commit() == head and len(head) == 40
    (tmp_path / "untracked.txt").write_text("data")
    assert commit() == head
    # Looked at, not written to: a killed run would leave the repository locked.
    os.utime(tmp_path / "file.txt", (1, 1))
    index = (tmp_path / ".git/index").read_bytes()
    assert commit() == head
    assert (tmp_path / ".git/index").read_bytes() == index
    (tmp_path / "file.txt").write_text("two")
    assert commit() == f"{head}-dirty"


def test_a_record_names_the_commit_that_ran_though_another_came_meanwhile(monkeypatch):
    artifacts.commit.cache_clear()
    commits = iter(["first", "second"])
    monkeypatch.setattr(
        artifacts.subprocess, "run", lambda *_, **options: SimpleNamespace(stdout=f"# branch.oid {next(commits)}")
    )
    assert [artifacts.record({})["commit"] for _ in range(2)] == ["first", "first"]
    artifacts.commit.cache_clear()


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


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@pytest.fixture
def full_disk():
    """Files take no more than 4 KB: a stand-in for a full disk that needs no rights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_the_earlier_files_stay(tmp_path, full_disk):
    path = tmp_path / "file.csv"
    with artifacts.recorded_file(path, {}) as aside:
        aside.write_text("old")
    before = {name: (tmp_path / name).read_bytes() for name in listed(tmp_path)}
    for big_file, big_record in ((True, False), (False, True)):
        with (
            pytest.raises(InputError, match=f"{path.stem}.*: can't be written: {os.strerror(errno.EFBIG)}$"),
            artifacts.recorded_file(path, {"long": "x" * 5000} if big_record else {}) as aside,
        ):
            aside.write_text("x" * 5000 if big_file else "new")
        assert {name: (tmp_path / name).read_bytes() for name in listed(tmp_path)} == before


def test_a_folder_that_is_gone_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(InputError, match="^file.json: can't be written: No such file or directory$"):
        artifacts.write_json(Path("file.json"), {})


# Stops a process in the middle of putting a file and its record in their places.
KILLED = """
import os, signal, sys
from pathlib import Path
from utils import artifacts
moves, last = 0, int(sys.argv[2])
def counted(move):
    def moved(*arguments, **options):
        global moves
        if moves == last:
            os.kill(os.getpid(), signal.SIGKILL)
        moves += 1
        return move(*arguments, **options)
    return moved
Path.replace, Path.unlink = counted(Path.replace), counted(Path.unlink)
with artifacts.recorded_file(Path(sys.argv[1]), {"run": 2}) as aside:
    aside.write_text("new")
"""


@pytest.mark.parametrize("moves", range(6))
def test_a_file_and_its_record_are_never_of_two_runs(tmp_path, moves):
    path = tmp_path / "file.csv"
    with artifacts.recorded_file(path, {"run": 1}) as aside:
        aside.write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, path, str(moves)], cwd=artifacts.REPOSITORY)
    assert killed.returncode == (-signal.SIGKILL if moves < 5 else 0)
    record = path.with_suffix(".json")
    if record.exists():
        made = json.loads(record.read_text())
        assert (path.read_text(), made["run"]) in (("old", 1), ("new", 2))
        assert made["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    # The next run of that name clears what this one left.
    with artifacts.recorded_file(path, {"run": 3}) as aside:
        aside.write_text("newer")
    assert listed(tmp_path) == ["file.csv", "file.json"]
    assert json.loads(record.read_text())["run"] == 3


def test_what_is_read_is_not_written_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.json").symlink_to("texts.json")
    artifacts.check_apart("save_name", [Path("out.pkl"), Path("out.json")], dataset="texts.json", examples=None)
    for given in ("texts.json", str(tmp_path / "texts.json"), "link.json", "new/../texts.json"):
        with pytest.raises(
            InputError, match="^save_name: it would overwrite texts.json, which questions=... reads; give another name$"
        ):
            artifacts.check_apart(
                "save_name", [Path("texts.pkl"), Path("texts.json")], dataset="a.csv", questions=given, examples=given
            )


@pytest.mark.parametrize("content", ['{"model_type": "llama"}', '["config", "versions"]', "half", ""])
def test_what_is_no_record_is_not_written_over(tmp_path, content):
    path, record = tmp_path / "config.pkl", tmp_path / "config.json"
    record.write_text(content)
    with (
        pytest.raises(InputError, match=f"^save_name: it would overwrite {record}, which is not a record"),
        artifacts.claimed("save_name", path, record),
    ):
        pass
    assert record.read_text() == content and listed(tmp_path) == ["config.json"]
    artifacts.write_json(record, artifacts.record({"seed": 1}))
    with artifacts.claimed("save_name", path, record):
        pass


def test_a_second_run_of_a_name_is_refused_and_one_of_another_is_not(tmp_path):
    path = tmp_path / "new folder" / "file.csv"
    with artifacts.claimed("save_name", path) as folder:
        message = f"^save_name: another run is writing {path}; wait for it to finish, or use another name$"
        with pytest.raises(InputError, match=message), artifacts.claimed("save_name", path):
            pass
        # Names that are alike where they are long.
        for name in ("other.csv", "x" * 250, "x" * 251):
            with artifacts.claimed("save_name", path.with_name(name)):
                pass
        assert listed(tmp_path) == sorted(["new folder", folder.name, "lock"])
        path.write_text("done")
    assert listed(tmp_path) == ["file.csv", "new folder"]
    with artifacts.claimed("save_name", path):
        pass


def test_a_run_that_is_refused_leaves_no_folder(tmp_path):
    path = tmp_path / "new folder" / "in it" / "file.csv"
    with pytest.raises(InputError, match="bad"), artifacts.claimed("save_name", path) as folder:
        (folder / "0.jsonl").write_text("half")
        raise InputError("bad")
    assert not listed(tmp_path)


CLAIMS = """
import sys
from pathlib import Path
from utils import artifacts
with artifacts.claimed("save_name", Path(sys.argv[1])) as folder:
    (folder / "0.jsonl").write_text("kept")
    print("claimed", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_a_claim_dies_with_its_process_and_what_it_kept_does_not(tmp_path, number):
    path = tmp_path / "file.csv"
    command = [sys.executable, "-c", CLAIMS, path]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=artifacts.REPOSITORY, preexec_fn=heed_hangups, **pipes) as process:
        assert process.stdout.readline() == b"claimed\n"
        with pytest.raises(InputError, match="another run"), artifacts.claimed("save_name", path):
            pass
        process.send_signal(number)
    with artifacts.claimed("save_name", path) as folder:
        assert [left.read_text() for left in artifacts.leftovers(folder)] == ["kept"]
    assert not listed(tmp_path)


def test_of_several_processes_the_first_claims_for_all(tmp_path, monkeypatch):
    with artifacts.claimed("save_name", tmp_path / "file.csv") as folder:
        monkeypatch.setenv("RANK", "1")
        with artifacts.claimed("save_name", tmp_path / "file.csv") as second_folder:
            assert second_folder == folder
        assert folder.exists()


def test_where_nothing_can_be_locked_a_line_says_so(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(artifacts.fcntl, "flock", refuse)
    with artifacts.claimed("save_name", tmp_path / "file.csv"):
        pass
    assert capsys.readouterr().out.startswith(f"{tmp_path}: file locks don't work there (No locks available)")
    assert not listed(tmp_path)


def test_the_commit_is_that_of_this_repository_whatever_git_is_told(tmp_path, monkeypatch):
    expected = artifacts.commit.__wrapped__()
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert artifacts.commit.__wrapped__() == expected
