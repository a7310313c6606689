"""What results/README.md says beyond the tables, computed again from the committed answers."""

import functools
import re

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import yaml

from tests.conftest import ROOT
from utils import scores
from workflow import intervals, readme
from workflow.selection import EVERYBODY, OTHERS, asked, choose, read_answers, read_scores, reported
from workflow.table import run_of

# Many answers are the same.
matches_exactly = functools.cache(scores.exact_match)

PAGE = " ".join((ROOT / "results/README.md").read_text(encoding="utf-8").split())


def numbers(words: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", words)]


def config_of(table: str) -> dict:
    return yaml.safe_load((ROOT / "conf/tables" / f"{table}.yaml").read_text(encoding="utf-8"))


def folders_of(table: str, heading: str) -> dict[str, list[str]]:
    """Each arm's folders, seed by seed, of one evaluation and way of choosing."""
    config, results = config_of(table), ROOT / "results" / table
    (folders,) = [found for name, _, found in asked(config, choose(config, results)) if name == heading]
    return folders


def exchanged(table: str, folders: list[str], people: slice = EVERYBODY) -> pd.DataFrame:
    """Of each field the exact match in per cent: as it is, and if each run's answers are exchanged among the people."""
    rows = []
    for folder in folders:
        for field, answers in read_answers(ROOT / "results" / table, folder, people).groupby("field"):
            matches = np.array(
                [[matches_exactly(said, gold) for gold in answers["answer"]] for said in answers["prediction"]]
            )
            assert np.allclose(matches.diagonal(), answers["exact_match"])
            rows.append({"field": field, "as it is": matches.diagonal().mean(), "exchanged": matches.mean()})
    return pd.DataFrame(rows).groupby("field").mean()


def test_what_would_be_right_if_answers_were_exchanged():
    originals = folders_of("originals_smollm2", "questions")
    by_field = {arm: exchanged("originals_smollm2", folders) for arm, folders in originals.items()}

    def said(*arms: str, column: str = "exchanged", field: str | None = None) -> str:
        found = [by_field[arm][column] for arm in arms]
        return " and ".join(f"{each.mean() if field is None else each[field]:.1f}" for each in found)

    deleted, both = ("random_delete", "difference_delete"), ("random_delete_originals", "difference_delete_originals")
    for part in (
        f"would be {said(*deleted)} % after deletion",
        f"(`random` and `difference`; as asked {said(*deleted, column='as it is')})",
        f"with originals {said(*both)} ({said(*both, column='as it is')})",
        f"on plain texts {said('none')} ({said('none', column='as it is')})",
    ):
        assert part in PAGE, part
    assert said("random", "difference") == "0.0 and 0.0" and "after blanks 0.0" in PAGE
    for field, words in (
        ("city", "(9.2 against 1.9, 3.3 against 0.7)"),
        ("major", "(5.8 against 6.3, 7.5 against 6.4)"),
    ):
        pairs = [[by_field[arm][column][field] for column in ("as it is", "exchanged")] for arm in deleted]
        assert numbers(words) == pytest.approx(sum(pairs, []), abs=0.051)
        assert words in PAGE

    smollm2 = folders_of("paper_smollm2", f"questions, {OTHERS}")
    people = reported(config_of("paper_smollm2"))
    means = [exchanged("paper_smollm2", folders, people)["exchanged"].mean() for folders in smollm2.values()]
    assert f"exchanged among the people, field by field, {min(means):.1f} to {max(means):.1f} % would be right" in PAGE


def scores_of(table: str, arm: str, measure: str, checkpoint: int = 2) -> np.ndarray:
    """[seeds, reported people], asked by questions at the table's only learning rate."""
    config = config_of(table)
    (rate,) = config["learning_rates"]
    folders = [f"{run_of(arm, seed, rate)}/questions/{checkpoint}" for seed in config["seeds"]]
    return np.stack([read_scores(ROOT / "results" / table, folder, reported(config))[measure] for folder in folders])


def test_the_difference_after_all_epochs():
    table = "paper_smollm2"
    difference = scores_of(table, "difference", "log_likelihood")
    for arm in config_of(table)["arms"]:
        if arm == "difference":
            continue
        other = scores_of(table, arm, "log_likelihood")
        minus = difference - other
        low, high = intervals.interval(minus)
        p = intervals.p_value(difference, other)
        same = (np.sign(minus.mean(axis=1)) == np.sign(minus.mean())).sum()
        digits = 2 if p >= 0.1 else 3 if p >= 0.001 else 4
        cells = f"{minus.mean():+.2f} [{low:.2f}, {high:.2f}], p = {p:.{digits}f} | {same} of 5 |"
        assert re.search(rf"\| `{arm}`[^|]*\| {re.escape(cells)}", PAGE), (arm, cells)


QWEN = "paper_qwen_0.5b"
SECTION = PAGE[PAGE.index("## Close to the paper's protocol") : PAGE.index("## The same with six controls")]
FIVE = r"(-?[\d.]+, -?[\d.]+, -?[\d.]+, -?[\d.]+ and -?[\d.]+)"


def beginning(arm: str) -> np.ndarray:
    """The share of answers that begin with the gold answer, in per cent: a row a seed, a column a person."""
    rows = []
    for folder in folders_of(QWEN, f"questions, {OTHERS}")[arm]:
        answers = read_answers(ROOT / "results" / QWEN, folder, reported(config_of(QWEN)))
        begins = [said.startswith(gold) for said, gold in zip(answers["prediction"], answers["answer"], strict=True)]
        rows.append(100 * answers.assign(begins=begins).groupby("name", sort=True)["begins"].mean())
    return np.array(rows)


def test_the_seeds_and_the_budget_of_paper_qwen():
    fell = 0
    for arm in config_of(QWEN)["arms"]:
        half, full = (scores_of(QWEN, arm, "exact_match", checkpoint).mean(axis=1) for checkpoint in (1, 2))
        fell += (full < half).sum()
        seeds = re.search(rf"{FIVE}(?: %)? \(`{arm}`\)", SECTION)
        assert numbers(seeds[1]) == pytest.approx(full, abs=0.0501), arm
        rise = re.search(rf"([\d.]+ to [\d.]+)(?: %)? \(`{arm}`\)", SECTION)
        assert numbers(rise[1]) == pytest.approx([half.mean(), full.mean()], abs=0.0501), arm
        begins = re.search(rf"begin with the gold answer:[^:]*?([\d.]+)(?: %)? \(`{arm}`\)", SECTION)
        assert float(begins[1]) == pytest.approx(beginning(arm).mean(), abs=0.0501), arm
    assert fell == 2 and "Two of the 25 runs fell" in SECTION


@pytest.mark.parametrize(
    ("measure", "before", "rounded"),
    [
        ("exact_match", "and less with each seed: ", 0.0501),
        ("log_likelihood", "By log-likelihood it is below `attention` with each seed: ", 0.00501),
        ("f1", "and with each seed: ", 0.0501),
    ],
)
def test_the_difference_is_below_attention_with_each_seed_of_paper_qwen(measure, before, rounded):
    minus = (scores_of(QWEN, "difference", measure) - scores_of(QWEN, "attention", measure)).mean(axis=1)
    said = re.search(before + FIVE, SECTION)
    assert numbers(said[1]) == pytest.approx(minus, abs=rounded)
    assert (minus < 0).all()


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ("difference", "attention", "the interval of `difference` minus `attention` is"),
        ("attention", "none", "that of `attention` minus `none`"),
        ("attention", "random", "that of `attention` minus `random`"),
    ],
)
def test_intervals_over_the_seeds_of_paper_qwen_alone(one, other, words):
    over_seeds = (scores_of(QWEN, one, "exact_match") - scores_of(QWEN, other, "exact_match")).mean(axis=1)
    low, high = scipy.stats.ttest_1samp(over_seeds, 0).confidence_interval()
    assert f"{words} [{low:.1f}, {high:.1f}]" in SECTION


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ("difference", "attention", "By this count `difference` is below `attention`, "),
        ("difference", "shuffled", "below `shuffled`, "),
        ("attention", "none", "`attention` minus `none` is +"),
    ],
)
def test_answers_of_paper_qwen_that_begin_with_the_gold_answer(one, other, words):
    apart = beginning(one) - beginning(other)
    low, high = intervals.interval(apart)
    assert f"{words}{apart.mean():.1f} [{low:.1f}, {high:.1f}]" in SECTION


def test_the_difference_is_above_random_dropout_in_no_table():
    rows = [line.split("|") for line in readme.studies().splitlines()[2:]]
    first_page = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert len(rows) == len(readme.STUDIES) == 8 and "[eight tables]" in first_page
    for _, table, *cells, _ in rows:
        for cell in cells[:2]:
            low, high = map(float, re.search(r"\[(\S+), (\S+)\]", cell).groups())
            assert low <= 0, table
            assert high >= 0 or "departures" in table
    likelihoods = [[float(cell.split()[0]) for cell in row[4:6] if cell.strip() != "–"] for row in rows]
    assert sum(bool(signs) and min(signs) > 0 for signs in likelihoods) == 3
    assert sum(bool(signs) and max(signs) < 0 for signs in likelihoods) == 3


def test_what_leads_before_a_field():
    later = {"university": "Studies", "major": "degree", "company": "work"}
    first = {
        prefix: pd.read_csv(ROOT / f"results/figures/ranks_{prefix}.csv").groupby(["attention", "field"])["rank_1"]
        for prefix in ("plain", "text_first")
    }

    def count(prefix: str, size: str, field: str, token: str) -> int:
        return (first[prefix].get_group((size, field)) == token).sum()

    words = {"city": "birth", **later}
    assert {count(prefix, "large", field, words[field]) for prefix in first for field in words} == {100}
    assert "all 100 texts, and the name's tokens hold 0 %" in PAGE
    birth = count("plain", "small", "city", "birth")
    assert f'"birth" leads before the city too ({birth} texts)' in PAGE
    stops = [count("plain", "small", field, ".") for field in later]
    led = [count("plain", "small", field, word) for field, word in later.items()]
    words_led = f'"Studies", "degree" and "work" {min(led)} to {max(led)}'
    assert f"({min(stops)} to {max(stops)} texts; {words_led})" in PAGE
    prefixed = [count("text_first", "small", field, "Text:") for field in words]
    assert f"leads before all four ({min(prefixed)} to {max(prefixed)} texts)" in PAGE


def test_an_interval_over_few_seeds_is_too_narrow(monkeypatch):
    """How often the interval of a mean covers the truth, 0, if seeds differ ten times as much as people."""
    monkeypatch.setattr(intervals, "RESAMPLES", 999)
    drawn = np.random.default_rng(0)
    for seeds, claimed in ((2, 51), (3, 76), (5, 84)):
        covered = 0
        for _ in range(1000):
            low, high = intervals.interval(10 * drawn.normal(size=(seeds, 1)) + drawn.normal(size=(1, 40)))
            covered += low <= 0 <= high
        # Twice the standard error of 1,000 cases.
        assert covered / 10 == pytest.approx(claimed, abs=3.2)
        assert re.search(rf"in {claimed} % (of simulated cases )?with", PAGE)
