"""The paragraphs about invented things and their questions: format, reach, and that nothing can be guessed."""

import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from utils import scores

DATA = Path(__file__).parent.parent / "data"
KINDS = ["place", "building", "device", "expedition", "institution", "species", "work", "custom", "event", "person"]
# Words that an answer may share with its question: they say nothing of it.
SMALL_WORDS = {"of", "in", "on", "at", "by", "to", "for", "with", "from", "and", "as", "its", "it", "was", "is"}


def read_lines(name):
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


PARAGRAPHS = read_lines("paragraphs.jsonl")
QUESTIONS = read_lines("paragraph_questions.jsonl")
EXAMPLES = read_lines("paragraph_examples.jsonl")
TEXTS = {paragraph["title"]: paragraph["text"] for paragraph in PARAGRAPHS}


def sentences(text):
    return re.split(r"(?<=[.!?]) ", text)


def normal(answer):
    return " ".join(scores.normalize(answer))


def first_sentence_with(question):
    """The index of the sentence in which the question's main answer first stands."""
    (answer, *_), parts = question["answers"], sentences(TEXTS[question["title"]])
    return next(index for index, part in enumerate(parts) if answer in part)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("paragraphs.jsonl", ["title", "kind", "text"]),
        ("paragraph_questions.jsonl", ["title", "kind", "question", "answers"]),
        ("paragraph_examples.jsonl", ["title", "kind", "question", "answers"]),
    ],
)
def test_one_object_a_line_with_its_keys_in_order(name, keys):
    raw = (DATA / name).read_bytes()
    assert b"\r" not in raw and raw.endswith(b"\n")
    lines = raw.decode("utf-8").split("\n")[:-1]
    assert [list(json.loads(line)) for line in lines] == [keys] * len(lines)
    # One way of writing, so that a change shows as the line that it is.
    assert [json.dumps(json.loads(line), ensure_ascii=False) for line in lines] == lines


def test_counts():
    assert len(PARAGRAPHS) == 70
    assert len(TEXTS) == 70
    assert Counter(paragraph["kind"] for paragraph in PARAGRAPHS) == dict.fromkeys(KINDS, 7)
    assert len(QUESTIONS) >= 240
    assert min(Counter(question["title"] for question in QUESTIONS).values()) >= 4
    assert Counter(example["title"] for example in EXAMPLES).most_common() == [
        (title, 4) for title in dict.fromkeys(example["title"] for example in EXAMPLES)
    ]
    assert len(EXAMPLES) == 48
    assert len({question["question"] for question in QUESTIONS + EXAMPLES}) == len(QUESTIONS + EXAMPLES)


def test_paragraphs():
    for paragraph in PARAGRAPHS:
        title, text = paragraph["title"], paragraph["text"]
        assert 90 <= len(text.split()) <= 160, title
        assert text == " ".join(text.split()), title
        assert text.endswith(".") and not re.search("[<>]", text), title
        assert title in sentences(text)[0], title
        # The subject is named once: what follows speaks of "it", "she", "the cave".
        assert text.count(title) == 1, title


def test_questions_and_examples():
    kinds = {paragraph["title"]: paragraph["kind"] for paragraph in PARAGRAPHS}
    assert all(kinds[question["title"]] == question["kind"] for question in QUESTIONS)
    assert all(example["kind"] in KINDS for example in EXAMPLES)
    for question in QUESTIONS + EXAMPLES:
        asked, answers = question["question"], question["answers"]
        assert asked == " ".join(asked.split()) and asked.endswith("?"), asked
        assert question["title"] in asked, asked
        assert len(set(map(normal, answers))) == len(answers), f"two forms that score alike: {asked}"
        for answer in answers:
            assert answer == " ".join(answer.split()), asked
            assert normal(answer) and len(answer.split()) <= 6, asked
            assert f" {normal(answer)} " not in f" {normal(asked)} ", asked


def test_answers_stand_in_the_text_and_share_no_word_with_the_question():
    for question in QUESTIONS:
        answer = question["answers"][0]
        assert answer in TEXTS[question["title"]], answer
        words = set(scores.normalize(answer)) - SMALL_WORDS
        assert words and not words & set(scores.normalize(question["question"])), question


def test_examples_tell_nothing_of_the_paragraphs():
    everything = " ".join(TEXTS.values())
    for example in EXAMPLES:
        assert example["title"] not in everything
    accepted = {normal(answer) for question in QUESTIONS for answer in question["answers"]}
    assert not accepted & {normal(example["answers"][0]) for example in EXAMPLES}


def test_answers_stand_beyond_the_sentence_that_names_the_subject():
    """97.7 % do."""
    beyond = [first_sentence_with(question) > 0 for question in QUESTIONS]
    assert sum(beyond) >= 0.95 * len(beyond)
    # And not all in the next one: half are at least three sentences away.
    far = [first_sentence_with(question) >= 3 for question in QUESTIONS]
    assert sum(far) >= 0.5 * len(far)


def test_hardly_an_answer_occurs_twice():
    counts = Counter(normal(question["answers"][0]) for question in QUESTIONS)
    assert max(counts.values()) <= 3
    assert len(counts) >= 0.95 * len(QUESTIONS)


def kind(question):
    return question["kind"]


def first_two_words(question):
    return tuple(question["question"].split()[:2])


def subject(question):
    return question["title"]


@pytest.mark.parametrize("group", [kind, first_two_words, subject])
def test_no_answer_is_an_answer_to_another_question_of_its_group(group):
    """Whoever guesses an answer that is right elsewhere in the group, the most frequent one or any, is right no more
    often than this; measured: 0 % by kind and by subject, 1.7 % by the first two words."""
    answers = defaultdict(Counter)
    for question in QUESTIONS:
        answers[group(question)].update(map(normal, question["answers"]))
    elsewhere = [
        any(answers[group(question)][normal(answer)] > 1 for answer in question["answers"]) for question in QUESTIONS
    ]
    assert sum(elsewhere) <= 0.02 * len(elsewhere)


def most_frequent(group):
    """A guess for each question: the most frequent answer of the other questions in its group."""
    answers = defaultdict(Counter)
    for question in QUESTIONS:
        answers[group(question)][normal(question["answers"][0])] += 1
    guesses = []
    for question in QUESTIONS:
        others = answers[group(question)] - Counter([normal(question["answers"][0])])
        guesses.append(max(others, key=others.get, default=""))
    return guesses


def nearest():
    """A guess for each question: the answer to the question about another subject that has most of its words."""
    known = QUESTIONS + EXAMPLES
    words = [set(scores.normalize(question["question"].replace(question["title"], ""))) for question in known]
    guesses = []
    for question, asked in zip(QUESTIONS, words, strict=False):
        shares = [
            0 if other["title"] == question["title"] else len(asked & other_words) / len(asked | other_words)
            for other, other_words in zip(known, words, strict=True)
        ]
        guesses.append(known[shares.index(max(shares))]["answers"][0])
    return guesses


GUESSES = {
    "most frequent of the kind": most_frequent(kind),
    "most frequent of the same two words": most_frequent(first_two_words),
    "most frequent of the subject": most_frequent(subject),
    "the nearest question's": nearest(),
    "the question itself": [question["question"] for question in QUESTIONS],
    "the subject": [question["title"] for question in QUESTIONS],
}


@pytest.mark.parametrize("guesses", GUESSES.values(), ids=list(GUESSES))
def test_no_answer_is_guessable_from_the_question(guesses):
    """Measured: 0 % exact match by each; F1 0.4 % at most by an answer, 2.5 % by the question itself."""
    for measure, most in [(scores.exact_match, 1), (scores.f1, 5)]:
        values = [
            max(measure(guess, answer) for answer in question["answers"])
            for guess, question in zip(guesses, QUESTIONS, strict=True)
        ]
        assert sum(values) / len(values) <= most
