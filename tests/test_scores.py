"""Exact match and F1 by hand and against torchmetrics' SQuAD; averages by hand."""

import pytest
from torchmetrics.functional.text import squad

from utils.scores import average, best, by_field, exact_match, f1

TRICKY = [
    "",
    "the",
    "A, an; the!",
    "The Beatles",
    "beatles",
    "Theatre an der Wien",
    "theatre der Wien.",
    "U.S.A.",
    "usa",
    "New York, New York",
    "new  york\t",
    "york new city of New York",
    "São Paulo",
    "Sao Paulo",
    "SÃO PAULO",
    "“Paris”",
    '"Paris"',
    "İstanbul",
    "straße a",
    "1,000",
    "1000",
    "a\u0301",
    "O'Neil's",
    "to-day",
    "to day",
    "$5_000",
]


@pytest.mark.parametrize("gold", TRICKY)
def test_agrees_with_torchmetrics(gold):
    for prediction in TRICKY:
        oracle = squad(
            [{"prediction_text": prediction, "id": "0"}],
            [{"answers": {"answer_start": [0], "text": [gold]}, "id": "0"}],
        )
        assert exact_match(prediction, gold) == oracle["exact_match"].item()
        # The oracle counts in float32, which holds 100 to some 1e-5.
        assert f1(prediction, gold) == pytest.approx(oracle["f1"].item(), abs=1e-4)


@pytest.mark.parametrize(
    ("prediction", "gold", "exact", "harmonic"),
    [
        ("Paris", "Paris", 100, 100),
        ("the paris!", "Paris", 100, 100),
        ("Lyon", "Paris", 0, 0),
        ("", "Paris", 0, 0),
        # 2 of 3 words are right and 2 of 4 found: 2 * (2/3 * 1/2) / (2/3 + 1/2)
        ("New York City", "State of New York", 0, 400 / 7),
        # A word counts as often as both have it: 1 of 3 and 1 of 1.
        ("Bonn Bonn Bonn", "Bonn", 0, 50),
        ("May 1, 1950", "May 1 1950", 100, 100),
        ("York New", "New York", 0, 100),
    ],
)
def test_by_hand(prediction, gold, exact, harmonic):
    assert exact_match(prediction, gold) == exact
    assert f1(prediction, gold) == pytest.approx(harmonic)


def words_of(answer: str) -> list[str]:
    """SQuAD's four steps, one by one: lower case, no punctuation, no articles, white space."""
    lower = "".join(letter for letter in answer.lower() if letter not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
    words, word = [], ""
    for letter in lower + " ":
        # An article is what stands between characters that are no part of a word.
        if letter.isalnum() or letter == "_":
            word += letter
        else:
            words += ["" if word in ("a", "an", "the") else word, letter]
            word = ""
    return "".join(" " if part == "" else part for part in words).split()


def slow_scores(prediction: str, answers: list[str]) -> tuple[float, float]:
    """The highest exact match and F1 over the answers; those that are empty once normalised count only alone."""
    said, kept = words_of(prediction), [words_of(one) for one in answers]
    kept = [gold for gold in kept if gold] or [[]]
    exact = harmonic = 0.0
    for gold in kept:
        exact = max(exact, 100.0 if gold == said else 0.0)
        left, shared = list(gold), 0
        for word in said:
            if word in left:
                left.remove(word)
                shared += 1
        if not said or not gold:
            harmonic = max(harmonic, 100.0 if said == gold else 0.0)
        elif shared:
            precision, recall = shared / len(said), shared / len(gold)
            harmonic = max(harmonic, 100 * 2 * precision * recall / (precision + recall))
    return exact, harmonic


def test_the_best_of_several_answers_agrees_with_the_definition():
    found = set()
    for prediction in TRICKY:
        for number in range(len(TRICKY)):
            # Of each length from one to all.
            accepted = (TRICKY * 2)[number : 2 * number + 1]
            exact, harmonic = slow_scores(prediction, accepted)
            assert best(exact_match, prediction, accepted) == exact, (prediction, accepted)
            assert best(f1, prediction, accepted) == pytest.approx(harmonic), (prediction, accepted)
            found.add(round(harmonic))
    assert found == {0, 50, 80, 100}


@pytest.mark.parametrize(
    ("prediction", "accepted", "exact", "harmonic"),
    [
        ("in 1852", ["1852", "in 1852"], 100, 100),
        ("1852", ["in 1852", "the year 1852"], 0, 200 / 3),
        # Each score has its own best answer.
        ("x", ["x y", "the X"], 100, 100),
        ("", ["the", "Paris"], 0, 0),
        ("", ["the", "a"], 100, 100),
    ],
)
def test_the_best_of_several_answers_by_hand(prediction, accepted, exact, harmonic):
    for order in (accepted, accepted[::-1]):
        assert best(exact_match, prediction, order) == exact
        assert best(f1, prediction, order) == pytest.approx(harmonic)


def answer(field, exact, harmonic, likelihood, chosen="b", gold="b") -> dict:
    names = ("field", "exact_match", "f1", "log_likelihood", "chosen", "answer")
    return dict(zip(names, (field, exact, harmonic, likelihood, chosen, gold), strict=True))


def test_averages_by_hand():
    answers = [
        answer("city", 100, 100, -1.0),
        answer("date", 0, 0, -8.0, chosen="a"),
        answer("city", 0, 50, -2.0, chosen="a"),
        answer("city", 0, 0, -3.0),
        answer("city", 0, 10, -6.0),
    ]
    city = {"exact_match": 25, "f1": 40, "log_likelihood": -3, "choice_accuracy": 75}
    date = {"exact_match": 0, "f1": 0, "log_likelihood": -8, "choice_accuracy": 0}
    # Fields weigh alike, however many answers they have.
    overall = {"exact_match": 12.5, "f1": 20, "log_likelihood": -5.5, "choice_accuracy": 37.5}
    found = by_field(answers)
    assert found == {"fields": {"city": city, "date": date}, "average": overall}
    assert list(found["fields"]) == ["city", "date"]


def test_a_lacking_measure_is_none_and_not_zero():
    lacking = [answer("city", 100, 100, None, chosen=None), answer("city", 0, 0, -1.0)]
    expected = {"exact_match": 50, "f1": 50, "log_likelihood": None, "choice_accuracy": None}
    assert average(lacking) == expected
    found = by_field([*lacking, answer("date", 100, 100, -1.0)])
    assert found["fields"]["city"] == expected
    assert found["fields"]["date"]["log_likelihood"] == -1
    assert found["average"] == {"exact_match": 75, "f1": 75, "log_likelihood": None, "choice_accuracy": None}
