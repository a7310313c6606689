"""A table's pictures: what is drawn is what was measured; the arms that the text speaks of stand out, in grey as well,
and each arm has a mark of its own."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib import pyplot
from matplotlib.colors import to_rgb

from tests.conftest import ROOT
from tests.studies import answer, write_run
from utils.heatmap import luminance
from workflow import pictures
from workflow.pictures import HIGHLIGHTED, MARKS, line_of
from workflow.results import add
from workflow.table import MEASURES

ARMS = ["none", "random", "attention_small", "difference", "shuffled", "facts"]


def test_each_arm_has_its_name_and_its_mark():
    lines = [line_of(arm, ARMS) for arm in ARMS]
    assert [line["label"] for line in lines] == ARMS
    assert len({line["marker"] for line in lines}) == len(ARMS)
    assert len({line["marker"] for line in HIGHLIGHTED.values()} | set(MARKS)) == len(HIGHLIGHTED) + len(MARKS)


@pytest.mark.parametrize("path", sorted((ROOT / "conf/tables").glob("*.yaml")), ids=lambda path: path.stem)
def test_there_are_marks_for_all_arms_of_a_table(path):
    arms = list(yaml.safe_load(path.read_text(encoding="utf-8"))["arms"])
    assert len({line_of(arm, arms)["marker"] for arm in arms}) == len(arms)


def test_more_arms_than_marks_are_drawn_as_well():
    arms = [f"arm_{number}" for number in range(2 * len(MARKS))]
    assert [line_of(arm, arms)["label"] for arm in arms] == arms


def test_highlighted_arms_differ_without_colour_and_stand_out():
    for one, other in itertools.combinations(HIGHLIGHTED.values(), 2):
        assert one["marker"] != other["marker"]
        greys = [luminance(to_rgb(line["color"])) for line in (one, other)]
        assert one["linestyle"] != other["linestyle"] or abs(greys[0] - greys[1]) > 0.15
    others = line_of("facts", ARMS)
    for arm in HIGHLIGHTED:
        line = line_of(arm, ARMS)
        assert line["linewidth"] > others["linewidth"] and line["zorder"] > others["zorder"]


@pytest.fixture
def drawn(monkeypatch):
    """The figures, which are not written."""
    figures = []
    monkeypatch.setattr(pictures, "save", lambda figure, path: figures.append(figure))
    yield figures
    for figure in figures:
        pyplot.close(figure)


def test_the_scores_are_the_tables(drawn):
    columns = ["evaluation", "measure", "arm", "mean", "low", "high"]
    rows = [
        ("asked", "f1", "untrained", 1.0, np.nan, np.nan),
        ("asked", "f1", "none", 30.0, 28.5, 33.0),
        ("asked", "f1", "difference", 21.0, 10.0, 30.0),
        ("asked", "exact_match", "untrained", 0.0, np.nan, np.nan),
        ("asked", "exact_match", "none", 20.0, 17.0, 23.0),
        ("asked", "exact_match", "difference", 14.0, 3.0, 22.0),
    ]
    config = {"arms": {"none": None, "difference": {}}, "measures": ["exact_match", "f1"]}
    pictures.scores(pd.DataFrame(rows, columns=columns), config, Path("scores.png"))
    (figure,) = drawn
    figure.canvas.draw()
    arms = [label.get_text() for label in figure.axes[0].get_yticklabels()]  # of both panels
    for panel, measure in zip(figure.axes, ("exact_match", "f1"), strict=True):
        (bars,) = panel.containers
        means, _ = bars.lines[0].get_data()
        segments = [segment[:, 0].tolist() for segment in bars.lines[2][0].get_segments()]
        found = {arm: (mean, *ends) for arm, mean, ends in zip(arms, means.tolist(), segments, strict=True)}
        expected = {arm: numbers for _, about, arm, *numbers in rows if about == measure and arm != "untrained"}
        assert found == {arm: pytest.approx(tuple(numbers)) for arm, numbers in expected.items()}


def test_each_evaluation_has_a_row_of_panels(drawn):
    columns = ["evaluation", "measure", "arm", "mean", "low", "high"]
    pairs = list(itertools.product(("questions", "own_words"), ("exact_match", "f1")))
    rows = [(evaluation, measure, "none", 20.0, 17.0, 23.0) for evaluation, measure in pairs]
    config = {"arms": {"none": None}, "measures": ["exact_match", "f1"]}
    pictures.scores(pd.DataFrame(rows, columns=columns), config, Path("scores.png"))
    places = [(panel.get_subplotspec().rowspan.start, panel.get_subplotspec().colspan.start) for panel in drawn[0].axes]
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1)]
    labels = [(panel.get_title(), panel.get_xlabel()) for panel in drawn[0].axes]
    assert labels == [(evaluation, MEASURES[measure][0]) for evaluation, measure in pairs]


def test_the_curves_are_the_runs(drawn, tmp_path):
    scores = {("none", 1): (10, 40), ("none", 2): (20, 60), ("difference", 1): (0, 8), ("difference", 2): (4, 4)}
    losses = {
        ("none", 1): (3.0, 1.0),
        ("none", 2): (5.0, 2.0),
        ("difference", 1): (9.0, 6.0),
        ("difference", 2): (7, 5),
    }
    records, answers = {}, {}
    for (arm, seed), means in scores.items():
        for part, mean in enumerate(means, start=1):
            folder = f"{arm}/seed-{seed}/asked/{part}"
            records[f"{folder}/metrics.json"] = {"average": {"exact_match": mean}}
            answers[folder] = [answer("city", "Ada")]
    records["untrained/asked/metrics.json"] = {"average": {"exact_match": 1.0}}
    answers["untrained/asked"] = [answer("city", "Ada")]
    write_run(tmp_path / "made", records, answers)
    add(tmp_path / "made", tmp_path / "table")
    config = {"arms": {"none": None, "difference": {}}, "seeds": [1, 2], "checkpoints": 2, "tokens": 100}
    config |= {"evaluations": {"asked": {}}, "measures": ["exact_match"]}
    runs = {
        arm: [
            {"steps": 8, "loss": [[step, loss] for step, loss in zip((4, 8), losses[arm, seed], strict=True)]}
            for seed in (1, 2)
        ]
        for arm in config["arms"]
    }
    chosen = {"": dict.fromkeys(config["arms"], (None, 2))}
    pictures.curves(config, tmp_path / "table", runs, chosen, Path("curves.png"))
    (figure,) = drawn
    for panel, seeds_of in zip(figure.axes, (scores, losses), strict=True):
        lines = {line.get_label(): line.get_xydata().tolist() for line in panel.lines}
        for arm in config["arms"]:
            means = [sum(seeds_of[arm, seed][part] for seed in (1, 2)) / 2 for part in (0, 1)]
            assert lines[arm] == [[0.5, means[0]], [1.0, means[1]]]
        assert all(line.get_marker() == HIGHLIGHTED[line.get_label()]["marker"] for line in panel.lines)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["none", "difference"]
    # One checkpoint makes no curve: the loss stands alone, and names the arms.
    chosen = {"": dict.fromkeys(config["arms"], (None, 1))}
    pictures.curves(config | {"checkpoints": 1}, tmp_path / "table", runs, chosen, Path("curves.png"))
    (panel,) = drawn[1].axes
    assert panel.get_title() == "training loss" and len(panel.lines) == 2
    assert [text.get_text() for text in drawn[1].legends[0].get_texts()] == ["none", "difference"]


def test_the_likelier_a_token_is_dropped_the_darker_it_is(drawn):
    kept = {"tokens": ["Ada", " was", "."], "arms": {"none": [1.0, 1.0, 1.0], "difference": [0.9, 0.3, 1.0]}}
    pictures.keep_probabilities(kept, Path("kept.png"))
    panel, _ = drawn[0].axes
    (picture,) = panel.images
    assert picture.get_array().tolist() == list(kept["arms"].values())
    greys = [luminance(picture.to_rgba(keep)[:3]) for keep in (0.0, 0.3, 0.9, 1.0)]
    assert greys == sorted(greys) and (greys[0], greys[-1]) == pytest.approx((0.0, 1.0))
    assert [label.get_text() for label in panel.get_xticklabels()] == ["Ada", "␣was", "."]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["none", "difference"]
