"""What an unfinished run keeps: read by a later one that would compute the same, and by no other."""

import re
from pathlib import Path

import pytest

from utils import artifacts
from utils.errors import InputError
from utils.kept import Kept, made_by

LINES = [[1, "Zoë"], [2, [0.1, float("-inf")]], {"a": None}]


@pytest.fixture
def keep(tmp_path):
    """What earlier runs have kept: three lines."""
    kept = Kept(tmp_path, {"seed": 1})
    for line in LINES:
        kept.add(line)
    return tmp_path / "0.jsonl"


def test_what_was_kept_is_read_again(keep, tmp_path, capsys):
    assert Kept(tmp_path, {"seed": 1}).read(resume=True) == LINES
    assert capsys.readouterr().out == "resume: continuing; batches kept by an earlier run: 3\n"


def test_where_nothing_was_kept_nothing_is_said(tmp_path, capsys):
    assert Kept(tmp_path, {"seed": 1}).read(resume=True) == []
    assert not capsys.readouterr().out


def test_the_order_of_the_settings_does_not_matter(tmp_path):
    Kept(tmp_path, {"seed": 1, "alpha": 0.5}).add(1)
    assert Kept(tmp_path, {"alpha": 0.5, "seed": 1}).read(resume=True) == [1]


def test_keys_may_be_numbers_and_text():
    """As in max_memory={0: 70GiB, cpu: 100GiB}."""
    first, again, other = (
        Kept(Path(), {"max_memory": memory}) for memory in ({0: 7, "cpu": 1}, {"cpu": 1, 0: 7}, {0: 7})
    )
    assert first.made_by == again.made_by != other.made_by


def test_a_line_that_was_cut_short_counts_for_nothing_wherever_it_was_cut(keep, tmp_path):
    whole = keep.read_bytes()
    ends = [found.end() for found in re.finditer(rb"[^\n]+", whole)]
    for length in range(len(whole)):
        keep.write_bytes(whole[:length])
        kept = Kept(tmp_path, {"seed": 1})
        before = LINES[: sum(end <= length for end in ends)]
        assert kept.read(resume=True) == before
        kept.add("after it")
        assert kept.read(resume=True) == [*before, "after it"]


def test_a_line_that_was_changed_counts_for_nothing(keep, tmp_path):
    whole = keep.read_bytes()
    for place in range(len(whole)):
        keep.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert all(line in LINES for line in Kept(tmp_path, {"seed": 1}).read(resume=True))


def test_what_was_kept_of_something_else_is_not_used_and_a_line_says_so(keep, tmp_path, capsys):
    assert Kept(tmp_path, {"seed": 2}).read(resume=True) == []
    assert capsys.readouterr().out == (
        "resume: the kept work has different settings, texts, weights, versions or code; starting over\n"
    )


def test_without_resume_what_was_kept_goes(keep, tmp_path, capsys):
    assert Kept(tmp_path, {"seed": 1}).read(resume=False) == []
    assert not keep.exists() and not capsys.readouterr().out


def test_processes_keep_in_files_of_their_own_and_any_number_reads_them(keep, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    Kept(tmp_path, {"seed": 1}).add("of the fourth")
    assert keep.with_name("3.jsonl").exists()
    assert Kept(tmp_path, {"seed": 1}).read(resume=True) == [*LINES, "of the fourth"]


def test_a_folder_that_is_gone_is_one_line(tmp_path):
    with pytest.raises(InputError, match="0.jsonl: can't be written: No such file or directory$"):
        Kept(tmp_path / "gone", {}).add(1)


def test_what_cannot_be_written_says_that_resume_goes_on(tmp_path):
    with (
        pytest.raises(InputError, match="^file: full; what was computed is kept; resume=true continues from there$"),
        artifacts.claimed("save_name", tmp_path / "file") as folder,
    ):
        Kept(folder, {}).add(1)
        raise artifacts.NotWritten("file: full")


def test_resume_itself_is_no_other_setting():
    assert made_by({"seed": 1, "resume": True}) == made_by({"seed": 1, "resume": False}) != made_by({"seed": 2})
    assert made_by({"seed": 1}, texts="a") != made_by({"seed": 1}, texts="b")


def test_a_run_goes_on_under_another_heat_map():
    assert made_by({"seed": 1, "heatmap": "page.html", "resume": True}) == made_by({"seed": 1})
    assert made_by({"seed": 2}) != made_by({"seed": 1})


def test_what_other_code_has_kept_is_not_used(tmp_path, monkeypatch):
    before = made_by({"model": "m"})
    assert before == made_by({"model": "m"})
    for name in ("script.py", "utils/one.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1\n")
    monkeypatch.setattr(artifacts, "REPOSITORY", tmp_path)
    seen = {artifacts.code_hash.__wrapped__()}
    for name in ("script.py", "utils/one.py"):
        (tmp_path / name).write_text("2\n")
        seen.add(artifacts.code_hash.__wrapped__())
    assert len(seen) == 3 and before["code"] not in seen
