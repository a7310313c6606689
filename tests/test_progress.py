"""Progress: lines where there is no terminal, a bar where there is one, and nothing from other processes."""

import gc
import re
import sys

import pytest

from utils import progress

LINE = re.compile(r"(\w+): .* (\d+)/(\d+) \[")


@pytest.fixture
def clock(monkeypatch):
    """tqdm's clock, in seconds, which stands still until it is moved."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def lines(errors: str) -> list[tuple[str, int, int]]:
    assert "\r" not in errors
    found = [LINE.match(line) for line in errors.splitlines()]
    return [(match[1], int(match[2]), int(match[3])) for match in found]


def test_a_line_at_the_beginning_every_half_minute_and_at_the_end(clock, capsys):
    for _ in progress.bar(range(100), desc="texts"):
        clock[0] += 1
    assert lines(capsys.readouterr().err) == [("texts", done, 100) for done in (0, 30, 60, 90, 100)]


def test_an_item_that_takes_minutes_is_one_line(clock, capsys):
    with progress.bar(desc="answers", total=4, initial=1) as bar:
        clock[0] += 500
        bar.update()
        clock[0] += 1
        bar.update()
    assert lines(capsys.readouterr().err) == [("answers", done, 4) for done in (1, 2, 3)]


def test_what_is_done_is_not_said_twice(clock, capsys):
    with progress.bar(desc="answers", total=2) as bar:
        clock[0] += 31
        bar.update(2)
    assert lines(capsys.readouterr().err) == [("answers", done, 2) for done in (0, 2)]


def test_other_processes_say_nothing(clock, capsys):
    assert list(progress.bar(range(3), desc="texts", silent=True)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("made", ["_get_free_pos", "format_dict"])
def test_a_signal_while_it_is_made_leaves_nothing_to_complain_of(made, monkeypatch, capsys):
    """Python would print what fails while it deletes what is left."""

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(progress.Lines, made, property(stopped) if made == "format_dict" else stopped)
    with pytest.raises(KeyboardInterrupt):
        progress.bar(range(3), desc="texts")
    progress.Lines.__new__(progress.Lines).close()
    gc.collect()
    assert "Traceback" not in capsys.readouterr().err


def test_a_terminal_has_a_bar(monkeypatch, capsys):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress.bar(range(3), desc="texts")) == [0, 1, 2]
    said = capsys.readouterr().err
    assert said.startswith("\rtexts:   0%|") and said.count("\n") == 1
