"""The committed data: format, agreement with the script that made it, names worth testing with."""

import csv
import importlib.util
import re
import sys
from datetime import datetime
from pathlib import Path

import pytest

from utils import free_questions

DATA = Path(__file__).parent.parent / "data"
FIELDS = ["name", "date", "city", "university", "major", "company"]
FILES = ["biography_real.csv", "biography_synthetic.csv"]
PROMPTS = ["prompts_questions.csv", "prompts_statements.csv"]
TAGGED = re.compile(r"<(\w+)>([^<>]*)</\1>")


def read_rows(name):
    with open(DATA / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_people(name):
    return [dict(TAGGED.findall(row["text"])) for row in read_rows(name)]


@pytest.fixture(scope="module")
def make_synthetic():
    spec = importlib.util.spec_from_file_location("make_synthetic", DATA / "make_synthetic.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("people", [40, 60])
def test_a_short_file_is_the_head_of_the_long_one(people):
    assert read_rows(f"biography_synthetic_{people}.csv") == read_rows("biography_synthetic.csv")[:people]


def test_script_makes_the_committed_file_and_prints_what_it_says(make_synthetic, tmp_path, monkeypatch, capsys):
    output = tmp_path / "biography_synthetic.csv"
    monkeypatch.setattr(sys, "argv", ["make_synthetic.py", "--output", str(output)])
    make_synthetic.main()
    assert output.read_bytes() == (DATA / "biography_synthetic.csv").read_bytes()
    assert list(tmp_path.iterdir()) == [output]

    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 5
    for line in printed:
        assert f"    {line}\n" in make_synthetic.__doc__


def test_other_seeds_and_sizes(make_synthetic):
    people = make_synthetic.make_people(seed=2, people=2000)
    for field in ["name", "date", "company"]:
        assert len({person[field] for person in people}) == 2000
    assert people == make_synthetic.make_people(seed=2, people=2000)
    assert people[:100] != make_synthetic.make_people(seed=3, people=100)


@pytest.mark.parametrize("name", [*FILES, *PROMPTS])
def test_every_field_is_quoted_and_lines_end_in_lf(name):
    raw = (DATA / name).read_bytes()
    assert b"\r" not in raw
    assert re.fullmatch(r'("[^"]*"(,"[^"]*")*\n)+', raw.decode("utf-8"))


@pytest.mark.parametrize("name", FILES)
def test_every_row_has_each_tag_once_in_order(name):
    for row in read_rows(name):
        assert list(row) == ["text"]
        assert [tag for tag, _ in TAGGED.findall(row["text"])] == FIELDS
        assert not re.search("[<>]", TAGGED.sub("", row["text"]))
        for tag, value in TAGGED.findall(row["text"]):
            assert value and value == " ".join(value.split())
            assert tag == "date" or "," not in value


def test_one_template_for_all_rows(make_synthetic):
    texts = [row["text"] for name in FILES for row in read_rows(name)]
    templates = {TAGGED.sub(r"<\1>", text) for text in texts}
    assert templates == {re.sub(r"<(\w+)>\{\1\}</\1>", r"<\1>", make_synthetic.TEMPLATE)}


@pytest.mark.parametrize("name", FILES)
def test_dates(name):
    for person in read_people(name):
        day = datetime.strptime(person["date"], "%B %d, %Y")
        assert person["date"] == f"{day:%B} {day.day}, {day.year}"
        assert name == "biography_real.csv" or 1940 <= day.year <= 2000


def test_people():
    real, synthetic = map(read_people, FILES)
    assert len(real) == 15
    assert len(synthetic) == 100
    names = [person["name"] for person in real + synthetic]
    assert len(set(names)) == len(names)
    for field in ["date", "company"]:
        assert len({person[field] for person in synthetic}) == 100


@pytest.mark.parametrize("pattern", ["'", "-", r"[^\x00-\x7f]"])
@pytest.mark.parametrize("name", FILES)
def test_some_names_are_not_plain_letters(name, pattern):
    assert any(re.search(pattern, person["name"]) for person in read_people(name))


def test_cities_and_universities_go_together(make_synthetic):
    pairs = {
        (city, university)
        for place in make_synthetic.PLACES.values()
        for city, universities in place["universities"].items()
        for university in universities
    }
    for person in read_people("biography_synthetic.csv"):
        assert (person["city"], person["university"]) in pairs


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts(name):
    prompts = {row["field"]: row["prompt"] for row in read_rows(name)}
    assert list(prompts) == ["date", "city", "major", "university", "company"]
    for prompt in prompts.values():
        assert prompt.count("{name}") == 1
        assert prompt == prompt.strip()
        assert bool(re.fullmatch(r"[^\n]+\?\nAnswer:", prompt)) == (name == "prompts_questions.csv")
        # The question is in other words than the biography, or it would test mere continuation.
        for biographies in FILES:
            for row in read_rows(biographies):
                text = TAGGED.sub(r"\2", row["text"])
                person = dict(TAGGED.findall(row["text"]))
                assert prompt.format(name=person["name"]) not in text


def test_the_example_questions_are_answered_by_their_paragraphs():
    texts = {row["title"]: row["text"] for row in read_rows("example_texts.csv")}
    questions = free_questions.read(str(DATA / "example_questions.csv"), "kind")
    assert len(texts) == 6 and len(questions) == 16
    assert {one.name for one in questions} == set(texts)
    for one in questions:
        in_text = any(answer in texts[one.name] for answer in one.answers)
        assert in_text or one.answers in (["yes"], ["no"]), one.question
    choosing = {one.field for one in free_questions.ask(questions, [], "{question}", 0, 1) if one.choices}
    assert choosing == {"yes_or_no"}
