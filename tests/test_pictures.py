"""Learning curves: the arms that the text speaks of stand out, in grey as well, and each arm is named once."""

import itertools

from matplotlib.colors import to_rgb

from utils.heatmap import luminance
from workflow.pictures import HIGHLIGHTED, line_of

ARMS = ["none", "random", "attention_small", "difference", "shuffled", "facts"]


def test_each_arm_is_named_once():
    labels = {arm: line_of(arm, ARMS)["label"] for arm in ARMS}
    assert [labels[arm] for arm in ("none", "random", "difference")] == ["none", "random", "difference"]
    assert " ".join(labels["attention_small"].split()) == "others: attention_small, shuffled, facts"
    assert labels["shuffled"] is labels["facts"] is None


def test_highlighted_arms_differ_without_colour_and_stand_out():
    for one, other in itertools.combinations(HIGHLIGHTED.values(), 2):
        assert one["marker"] != other["marker"]
        greys = [luminance(to_rgb(line["color"])) for line in (one, other)]
        assert one["linestyle"] != other["linestyle"] or abs(greys[0] - greys[1]) > 0.15
    others = line_of("facts", ARMS)
    for arm in HIGHLIGHTED:
        line = line_of(arm, ARMS)
        assert line["linewidth"] > others["linewidth"] and line["zorder"] > others["zorder"]
