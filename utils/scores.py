"""Exact match and F1 as SQuAD defines them, and their averages by field."""

import re
import string
from collections import Counter
from collections.abc import Callable

MEASURES = ("exact_match", "f1", "log_likelihood", "choice_accuracy")


def normalize(answer: str) -> list[str]:
    """Lower-case words without ASCII punctuation and articles (Rajpurkar et al. 2016, SQuAD's evaluation script)."""
    letters = answer.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", letters).split()


def exact_match(prediction: str, gold: str) -> float:
    """100 where both are the same words, else 0."""
    return 100.0 * (normalize(prediction) == normalize(gold))


def f1(prediction: str, gold: str) -> float:
    """Per cent: the harmonic mean of precision and recall over words; an empty side scores against an empty one."""
    predicted, expected = normalize(prediction), normalize(gold)
    if not predicted or not expected:
        return 100.0 * (predicted == expected)
    shared = (Counter(predicted) & Counter(expected)).total()
    return 200.0 * shared / (len(predicted) + len(expected))


def best(score: Callable[[str, str], float], prediction: str, accepted: list[str]) -> float:
    """The highest score against any of the accepted answers; one without words counts only where all are."""
    with_words = [answer for answer in accepted if normalize(answer)]
    return max(score(prediction, answer) for answer in with_words or accepted)


def average(answers: list[dict]) -> dict[str, float | None]:
    """The mean of each measure over answers; None where an answer lacks it.

    An answer holds exact_match and f1 (per cent), log_likelihood (natural log) or None, chosen and answer (texts).
    """
    means = {}
    for measure in MEASURES:
        if measure == "choice_accuracy":
            values = [None if one["chosen"] is None else 100.0 * (one["chosen"] == one["answer"]) for one in answers]
        else:
            values = [one[measure] for one in answers]
        means[measure] = None if None in values else sum(values) / len(values)
    return means


def by_field(answers: list[dict]) -> dict:
    """{"fields": {field: means}, "average": means over the fields}."""
    fields = {}
    for field in dict.fromkeys(one["field"] for one in answers):
        fields[field] = average([one for one in answers if one["field"] == field])
    overall = {}
    for measure in MEASURES:
        values = [means[measure] for means in fields.values()]
        overall[measure] = None if None in values else sum(values) / len(values)
    return {"fields": fields, "average": overall}
