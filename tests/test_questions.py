"""Few-shot questions: the draw of examples, the prompt's layout, the choices, errors in the prompts' file."""

import io

import pandas as pd
import pytest

from utils.errors import InputError
from utils.questions import ask, labels, read_prompts

PROMPTS = {"city": "{name} was born in", "major": "What {name} ({name}!) studied is"}
PEOPLE = [{"name": f"Person {letter}", "city": f"City {letter}", "major": f"Major {letter}"} for letter in "ABCDEFGHIJ"]
POOL = [{"name": f"Known {letter}", "city": f"Town {letter}", "major": f"Art {letter}"} for letter in "KLMNOPQRS"]


def prompts_of(people, pool=POOL, shots=5, seed=1, first=10) -> dict[tuple[str, str], str]:
    return {
        (question.field, question.name): question.prompt for question in ask(people, pool, PROMPTS, shots, seed, first)
    }


def test_layout_by_hand():
    (city, major) = ask(PEOPLE[:1], POOL[:1], PROMPTS, shots=1, seed=1, first=1)
    assert city.prompt == "Known K was born in Town K\n\nPerson A was born in"
    assert major.prompt == "What Known K (Known K!) studied is Art K\n\nWhat Person A (Person A!) studied is"
    assert (city.field, city.name, city.answer) == ("city", "Person A", "City A")
    assert (major.field, major.name, major.answer) == ("major", "Person A", "Major A")
    assert major.place == "major of Person A"
    (city, _) = ask(PEOPLE[:1], POOL, PROMPTS, shots=0, seed=1, first=1)
    assert city.prompt == "Person A was born in"


def test_layout_of_a_question_with_an_answer_line():
    prompts = {"city": "Where was {name} born?\nAnswer:"}
    (city,) = ask(PEOPLE[:1], POOL[:1], prompts, shots=1, seed=1, first=1)
    assert city.prompt == "Where was Known K born?\nAnswer: Town K\n\nWhere was Person A born?\nAnswer:"


def test_each_prompt_has_so_many_distinct_examples():
    for (field, name), prompt in prompts_of(PEOPLE).items():
        *examples, last = prompt.split("\n\n")
        assert last == PROMPTS[field].replace("{name}", name)
        known = [f"{PROMPTS[field].replace('{name}', person['name'])} {person[field]}" for person in POOL]
        assert len(set(examples)) == 5 and set(examples) <= set(known)


def test_every_field_asks_the_first_people_in_their_order():
    questions = ask(PEOPLE, POOL, PROMPTS, shots=2, seed=1, first=3)
    expected = [(field, person["name"]) for field in PROMPTS for person in PEOPLE[:3]]
    assert [(question.field, question.name) for question in questions] == expected


def test_examples_are_drawn_for_each_person_and_by_the_seed():
    def draws(seed):
        return [prompt.rsplit("\n\n", 1)[0] for prompt in prompts_of(PEOPLE, seed=seed).values()]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert len(set(draws(1))) > 10
    # Each of the nine is drawn for somebody.
    assert all(any(person["name"] in draw for draw in draws(1)) for person in POOL)


def test_examples_depend_neither_on_the_order_nor_on_the_number_of_people_asked():
    everyone = prompts_of(PEOPLE)
    assert prompts_of(PEOPLE[::-1]) == everyone
    few = prompts_of(PEOPLE, first=3)
    assert few == {key: everyone[key] for key in few} and len(few) == 6


def test_nobody_is_their_own_example():
    for (_, name), prompt in prompts_of(PEOPLE, pool=PEOPLE, shots=9).items():
        examples = prompt.rsplit("\n\n", 1)[0]
        assert name not in examples
        assert all(other["name"] in examples for other in PEOPLE if other["name"] != name)


def test_too_few_people_for_the_shots():
    assert len(prompts_of(PEOPLE, shots=9)) == 20
    with pytest.raises(InputError, match="shots=10.* 9 people"):
        prompts_of(PEOPLE, shots=10)
    with pytest.raises(InputError, match="shots=10.* 9 people"):
        prompts_of(PEOPLE, pool=PEOPLE, shots=10)


def test_choices_are_the_distinct_answers_of_everyone():
    people = [*PEOPLE, PEOPLE[0] | {"name": "Person Z", "major": "Major Z"}]
    for question in ask(people, POOL, PROMPTS, shots=1, seed=1, first=2):
        assert len(question.choices) == len(set(question.choices))
        assert set(question.choices) == {person[question.field] for person in people}
        assert question.answer in question.choices


def test_braces_in_names_are_plain_characters():
    person = {"name": "Ann {0} {city}", "city": "Bonn", "major": "law"}
    (city, _) = ask([person], POOL, PROMPTS, shots=0, seed=1, first=1)
    assert city.prompt == "Ann {0} {city} was born in"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_read_prompts(tmp_path, mark):
    path = tmp_path / "prompts.csv"
    path.write_bytes(mark + '"field","prompt"\n"city","Where, ""{name}""?"\n"date "," {name} né le "\n'.encode())
    assert read_prompts(path) == {"city": 'Where, "{name}"?', "date": "{name} né le"}


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_prompt_may_have_several_lines(tmp_path, line_end):
    path = tmp_path / "prompts.csv"
    path.write_bytes(
        'field,prompt\ncity,"Where was {name} born?\nAnswer: "\ndate,{name} né le\n'.replace("\n", line_end).encode()
    )
    assert read_prompts(path) == {"city": "Where was {name} born?\nAnswer:", "date": "{name} né le"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "columns 'field' and 'prompt'"),
        (b"field,question\ncity,{name}\n", "columns 'field' and 'prompt'"),
        (b"field,prompt\n", "no prompts"),
        (b"field,prompt\ndate,of {name}\ncity,where\n", "'city' must hold {name}"),
        (b"field,prompt\ncity,{name} of {city}\n", "'city' holds {city}; only {name} is filled in"),
        (b"field,prompt\ncity\n", "row 1 has more or fewer fields"),
        (b"field,prompt\ncity,{name}, a writer, was born in\n", "row 1 has more or fewer fields"),
        (b"field,prompt\n,of {name}\n", "row 1: field '' is not a tag"),
        (b"field,prompt\nbirth-place,of {name}\n", "row 1: field 'birth-place' is not a tag"),
        (b'field,prompt\ncity,"{name}\n', "row 1 has an unclosed quote"),
        (b"field,prompt\ncity,{name} n\xe9\n", "not a UTF-8 CSV file"),
    ],
)
def test_errors_in_the_prompts_name_the_file(tmp_path, content, message):
    path = tmp_path / "prompts.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_prompts(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "names", [["Ann", "Bo", "Ann"], ["None", "Ann", "Bo"], ["Ann", "n/a", "Bo"], ["NULL", "Bo", "x"]]
)
def test_people_whom_names_do_not_tell_apart_are_called_by_their_rows(names):
    people = [{"name": name, "city": f"City {row}"} for row, name in enumerate(names, start=1)]
    expected = [f"{name} (row {row})" for row, name in enumerate(names, start=1)]
    assert labels(people) == expected
    asked = ask(people, [], {"city": "{name} was born in"}, 0, 1, 2)
    # In the results alone.
    assert [(one.name, one.prompt, one.answer) for one in asked] == [
        (expected[0], f"{names[0]} was born in", "City 1"),
        (expected[1], f"{names[1]} was born in", "City 2"),
    ]


@pytest.mark.parametrize("name", ["", "#N/A", "#NA", "-nan", "-NaN", "<NA>", "N/A", "NA", "nan", "NaN", "None", "null"])
def test_a_name_that_pandas_takes_for_a_missing_value_is_called_by_its_row(name):
    assert pd.read_csv(io.StringIO(f"name,row\n{name},1\n"))["name"].isna().all()
    assert labels([{"name": name}, {"name": "Ann"}]) == [f"{name} (row 1)", "Ann (row 2)"]


def test_people_with_names_of_their_own_are_called_by_them():
    assert labels([{"name": "007"}, {"name": "7"}, {"name": "Nan Goldin"}]) == ["007", "7", "Nan Goldin"]


@pytest.mark.parametrize("same", ["Zoe\u0308  Moe\u0301", "ZOË MOÉ"])
def test_nobody_is_their_own_example_however_the_name_is_written(same):
    people = [{"name": "Zoë Moé", "city": "Lyon", "major": "Law"}]
    pool = [{"name": same, "city": "Lyon", "major": "Law"}, *POOL[:1]]
    assert all("Lyon" not in question.prompt for question in ask(people, pool, PROMPTS, shots=1, seed=1, first=1))
    with pytest.raises(InputError, match="shots=2: the examples have 1 people besides Zoë Moé"):
        ask(people, pool, PROMPTS, shots=2, seed=1, first=1)


def test_of_one_answer_there_is_nothing_to_choose():
    people = [person | {"city": "Lyon"} for person in PEOPLE]
    choices = {question.field: question.choices for question in ask(people, POOL, PROMPTS, shots=1, seed=1, first=2)}
    assert choices["city"] == [] and len(choices["major"]) == 10
