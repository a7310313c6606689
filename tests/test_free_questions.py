"""Free questions: what the files' forms mean, the draw of examples, the choices, and errors that name the row."""

import json
import math
from pathlib import Path

import pytest

from utils.errors import InputError
from utils.free_questions import ask, read

TEMPLATE = "Question: {question}\nAnswer:"


def saved(folder, name: str, content: object) -> str:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif name.endswith(".jsonl"):
        path.write_text("\n".join(json.dumps(one) for one in content))
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def told(path: str, group: str | None = None) -> list[tuple]:
    """What does not depend on how the file calls its rows."""
    return [(one.question, one.answers, one.paragraph, one.name, one.group) for one in read(path, group)]


def lines(count: int, **columns) -> list[dict]:
    """`count` questions, two about each paragraph."""
    row = {"question": "What is {}?", "answer": "{}", "paragraph": "p{}"} | columns
    return [
        {key: value.format(number // 2 if key == "paragraph" else number) for key, value in row.items()}
        for number in range(count)
    ]


def test_all_forms_of_the_same_questions_are_read_alike(tmp_path):
    first, second, third = "Osk lies on a lake.", "Bu is a hill.", "Nobody lives in Bu."
    nested = {
        "version": "1",
        "data": [
            {
                "title": "Osk",
                "paragraphs": [
                    {
                        "context": first,
                        "qas": [
                            {"id": "1", "question": "Where is Osk?", "answers": [{"text": "a lake"}, {"text": "lake"}]},
                            {"id": "2", "question": "What is on a lake?", "answers": [{"text": "Osk"}] * 3},
                        ],
                    }
                ],
            },
            {
                "title": "Bu",
                "paragraphs": [
                    {"context": second, "qas": [{"question": "What is Bu?", "answers": [{"text": "a hill"}]}]},
                    {"context": third, "qas": [{"question": "Who lives in Bu?", "answers": [{"text": "nobody"}]}]},
                ],
            },
        ],
    }
    flat = [
        {
            "title": "Osk",
            "context": first,
            "questions": [
                {"question": "Where is Osk?", "answer": ["a lake", "lake"]},
                {"question": "What is on a lake?", "answer": "Osk"},
            ],
        },
        {"title": "Bu", "context": second, "questions": [{"question": "What is Bu?", "answers": ["a hill"]}]},
        {"title": "Bu", "context": third, "questions": [{"question": "Who lives in Bu?", "answer": "nobody"}]},
    ]
    rows = [
        {"title": "Osk", "context": first, "question": "Where is Osk?", "answers": {"text": ["a lake", "lake"]}},
        {"title": "Osk", "context": first, "question": "What is on a lake?", "answers": ["Osk"]},
        {"title": "Bu", "context": second, "question": "What is Bu?", "answer": "a hill"},
        {"title": "Bu", "context": third, "question": "Who lives in Bu?", "answer": "nobody"},
    ]
    table = (
        f'answer,question,title,text\na lake| lake,Where is Osk?,Osk,"{first}"\nOsk,What is on a lake?,Osk,{first}\n'
        f"a hill,What is Bu?,Bu,{second}\nnobody,Who lives in Bu?,Bu,{third}\n"
    )
    expected = [
        ("Where is Osk?", ["a lake", "lake"], ("Osk", first), "Osk (1)", "Osk"),
        ("What is on a lake?", ["Osk"], ("Osk", first), "Osk (1)", "Osk"),
        ("What is Bu?", ["a hill"], ("Bu", second), "Bu (1)", "Bu"),
        ("Who lives in Bu?", ["nobody"], ("Bu", third), "Bu (2)", "Bu"),
    ]
    forms = {"nested.json": nested, "flat.json": flat, "flat.jsonl": flat, "rows.jsonl": rows, "rows.JSON": rows}
    for name, content in forms.items():
        path = saved(tmp_path, name, content)
        assert told(path, "title") == expected, name
        marked = saved(tmp_path, f"marked_{name}", b"\xef\xbb\xbf" + Path(path).read_bytes())
        assert told(marked, "title") == expected, name
    for mark, line_end in ((b"", "\n"), (b"\xef\xbb\xbf", "\r\n")):
        path = saved(tmp_path, "table.csv", mark + table.replace("\n", line_end).encode())
        assert told(path, "title") == expected
        assert {one.group for one in read(path)} == {"all"}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"paragraph": "p1", "title": "T", "context": "c"}, (("T", "p1"), "T (p1)")),
        ({"paragraph": 7}, (("", "7"), "7")),
        ({"context": "c"}, (("", "c"), "paragraph 1")),
        ({"text": " c\n"}, (("", "c"), "paragraph 1")),
        ({"title": "T"}, (("T",), "T")),
        ({}, (("question", "q"), "line 1")),
    ],
)
def test_what_tells_a_questions_paragraph(tmp_path, columns, expected):
    (one,) = read(saved(tmp_path, "q.jsonl", [{"question": "q", "answer": "a"} | columns]))
    assert (one.paragraph, one.name) == expected


def test_a_paragraph_without_questions_and_blank_lines_are_passed_over(tmp_path):
    path = saved(tmp_path, "q.jsonl", b'{"text": "t", "questions": []}\n\n{"question": "q", "answer": "a\\n b"}\n')
    assert [(one.question, one.answers, one.place) for one in read(path)] == [("q", ["a b"], f"{path}: line 3")]


def test_unanswerable_questions_are_read_and_not_asked(tmp_path):
    rows = [
        *lines(2),
        {"question": "none", "answers": [], "paragraph": "x"},
        {"question": "plausible", "answers": ["so"], "is_impossible": True, "paragraph": "x"},
        {"question": "possible", "answers": ["so"], "is_impossible": False, "paragraph": "x"},
    ]
    found = read(saved(tmp_path, "q.jsonl", rows))
    assert [one.answers for one in found] == [["0"], ["1"], [], [], ["so"]]
    asked = ask(found, found, TEMPLATE, 1, 1)
    assert [one.question for one in asked] == ["What is 0?", "What is 1?", "possible"]
    assert not any(word in one.prompt for one in asked for word in ("none", "plausible"))
    table = "question,answer,is_impossible\nq,,True\nr,a,False\ns,,true\n"
    assert [one.answers for one in read(saved(tmp_path, "q.csv", table))] == [[], ["a"], []]
    # As spreadsheets write it, and where it is empty.
    table = "question,answer,is_impossible\nq,a,TRUE\nr,b,FALSE\ns,c,1\nt,d,0\nu,e,\n"
    assert [one.answers for one in read(saved(tmp_path, "q.csv", table))] == [[], ["b"], [], ["d"], ["e"]]


def test_what_a_program_writes_of_a_list_is_no_answer_and_columns_without_a_name_are_passed_over(tmp_path):
    table = "question,answer,answers,,\nq,a|b,\"{'text': ['c']}\",,\n"
    assert [one.answers for one in read(saved(tmp_path, "q.csv", table))] == [["a", "b"]]
    numbers = [{"question": 1, "answer": answer} for answer in (1852, 0, 1.5, True)]
    assert [one.answers for one in read(saved(tmp_path, "q.jsonl", numbers))] == [["1852"], ["0"], ["1.5"], ["True"]]


def test_layout_by_hand(tmp_path):
    rows = [
        {"question": "Where is {Osk}?", "answer": ["a lake", "lake"], "paragraph": "p1", "kind": "place"},
        {"question": "Which {question}?", "answer": "this", "paragraph": "p2", "kind": "what"},
    ]
    found = read(saved(tmp_path, "q.jsonl", rows), "kind")
    one, other = ask(found, found, "\nQ: {question}\r\nA: ", shots=1, seed=1)
    assert one.prompt == "Q: Which {question}?\nA: this\n\nQ: Where is {Osk}?\nA:"
    assert (one.field, one.name, one.answer, one.accepted) == ("place", "p1", "a lake", ["a lake", "lake"])
    assert one.question == "Where is {Osk}?" and one.place == f"{tmp_path}/q.jsonl: line 1"
    assert other.prompt == "Q: Where is {Osk}?\nA: a lake\n\nQ: Which {question}?\nA:"
    assert ask(found, [], "{question}", shots=0, seed=1)[0].prompt == "Where is {Osk}?"


def test_examples_are_distinct_of_other_paragraphs_and_drawn_evenly(tmp_path):
    found = read(saved(tmp_path, "q.jsonl", lines(20)))
    by_words = {f"Question: {one.question}\nAnswer: {one.answers[0]}": one for one in found}
    drawn = dict.fromkeys(by_words, 0)
    for seed in range(100):
        for one, asked in zip(found, ask(found, found, TEMPLATE, 5, seed), strict=True):
            *examples, last = asked.prompt.split("\n\n")
            assert last == f"Question: {one.question}\nAnswer:"
            assert len(set(examples)) == 5
            assert all(by_words[example].paragraph != one.paragraph for example in examples)
            for example in examples:
                drawn[example] += 1
    # 10,000 draws of 20, whose standard deviation is 19.
    assert all(abs(count - 500) < 95 for count in drawn.values())


def test_examples_depend_on_the_seed_and_the_pool_and_not_on_what_else_is_asked(tmp_path):
    found, pool = (
        read(saved(tmp_path, f"{name}.jsonl", lines(12, question=f"{name} {{}}?", paragraph=f"{name}{{}}")))
        for name in "ab"
    )
    everything = ask(found, pool, TEMPLATE, 3, 1)
    assert ask(found[::-1], pool, TEMPLATE, 3, 1) == everything[::-1]
    # Where the paragraphs are numbered by their order, the same.
    rows = [{"question": f"{letter}?", "answer": letter, "context": f"of {letter}"} for letter in "uvwxyz"]
    numbered = [read(saved(tmp_path, "c.jsonl", in_order)) for in_order in (rows, rows[::-1])]
    one, other = ({asked.question: asked.prompt for asked in ask(order, pool, TEMPLATE, 3, 1)} for order in numbered)
    assert one == other
    assert [one.prompt for one in ask(found[3:5], pool, TEMPLATE, 3, 1)] == [one.prompt for one in everything[3:5]]
    assert ask(found, pool, TEMPLATE, 3, 2) != everything
    assert len({one.prompt.rsplit("\n\n", 1)[0] for one in everything}) > 6


def test_the_same_question_in_the_examples_file_is_no_example(tmp_path):
    path = saved(tmp_path, "q.csv", "question,answer\nWho?,Ada\nWhere?,Osk\n")
    other = saved(tmp_path, "others.jsonl", [{"question": "Who?", "answer": "Ada", "context": "Ada was here."}])
    assert len(ask(read(path)[1:], read(other), TEMPLATE, 1, 1)) == 1
    with pytest.raises(
        InputError,
        match=r"shots=1: the examples have 0 questions .* than that of .*q.csv: row 1; "
        r"lower shots, or give examples=... of other paragraphs$",
    ):
        ask(read(path), read(other), TEMPLATE, 1, 1)
    assert "Osk" in ask(read(path), read(path), TEMPLATE, 1, 1)[0].prompt


def test_neither_case_nor_white_space_nor_unicode_makes_another_question_or_paragraph(tmp_path):
    rows = [
        {"question": "Who built Zoë's ferry?", "answer": "Bo", "context": "Bo built\nit for Zoë."},
        {"question": "who built  zoe\u0308's ferry?", "answer": "Bo", "context": "Another."},
        {"question": "When?", "answer": "1852", "context": "Bo built it  for Zoe\u0308."},
        {"question": "Where?", "answer": "Osk", "context": "bo built it for zoë."},
    ]
    found = read(saved(tmp_path, "q.jsonl", rows))
    asked = {seed: ask(found, found, "{question}", 1, seed)[0].prompt for seed in range(20)}
    assert set(asked.values()) == {"Where? Osk\n\nWho built Zoë's ferry?"}
    with pytest.raises(InputError, match="shots=2: the examples have 1 questions about paragraphs other than that of"):
        ask(found, found, "{question}", 2, 1)


def test_too_few_other_paragraphs_for_the_shots(tmp_path):
    found = read(saved(tmp_path, "q.jsonl", lines(6)))
    assert len(ask(found, found, TEMPLATE, 4, 1)) == 6
    with pytest.raises(InputError, match=r"shots=5: the examples have 4 questions about paragraphs other than that"):
        ask(found, found, TEMPLATE, 5, 1)


def test_choices_where_the_answers_of_a_group_repeat(tmp_path):
    golds = {"yes_no": ["yes", "no", "no", "yes"], "who": ["Ada", "Ada", "Bo", "Cy"], "one": ["x", "x"]}
    rows = [
        {"question": f"{group} {number}", "answer": gold, "kind": group}
        for group, answers in golds.items()
        for number, gold in enumerate(answers)
    ]
    # Neither its unaccepted twin nor another that is accepted as well is to choose; then one is left alone.
    rows[0]["answer"] = ["yes", "yeah"]
    rows[1]["answer"] = ["no", "yes"]
    found = ask(read(saved(tmp_path, "q.jsonl", rows), "kind"), [], TEMPLATE, 0, 1)
    by_group = {group: [one.choices for one in found if one.field == group] for group in golds}
    assert by_group["yes_no"] == [["no", "yes"], [], ["no", "yes"], ["no", "yes"]]
    # Three different answers to four questions; one answer alone.
    assert by_group["who"] == [[]] * 4 and by_group["one"] == [[]] * 2
    together = ask(read(saved(tmp_path, "q.jsonl", rows)), [], TEMPLATE, 0, 1)
    assert together[2].choices == []  # six different answers to ten questions


QUESTION = {"question": "q", "answer": "a"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.csv", "", "needs a column 'question' and a column 'answer'"),
        ("q.csv", "question,answers\nq,a\n", "needs a column 'question' and a column 'answer'"),
        ("q.csv", "question,answer,answer\nq,a,b\n", "q.csv: two columns 'answer'; keep one of them"),
        ("q.csv", "question,answer,title,title\nq,a,b,c\n", "q.csv: two columns 'title'; keep one of them"),
        ("q.csv", "Who is it? " * 100, "(columns: Who is it? Who is it? "),
        ("q.csv", 'question,"answer"s\nq,a\n', "q.csv: the header has an unclosed quote"),
        ("q.csv", "question,answer,is_impossible\nq,a,yes\n", "row 1: 'is_impossible' is neither true nor false: yes"),
        ("q.csv", "question,answer\n", "q.csv: no questions"),
        ("q.csv", "question,answer\nq,a\n,b\n", "q.csv: row 2 has an empty question"),
        ("q.csv", "question,answer\nq, \n", "q.csv: row 1 has an empty answer"),
        ("q.csv", "question,answer\nq,a||b\n", "q.csv: row 1 has an empty answer"),
        ("q.csv", "question,answer,paragraph\nq,a,\n", "q.csv: row 1 has an empty paragraph"),
        ("q.csv", "question,answer\nWho, where?,a\n", "q.csv: row 1 has more or fewer fields than the header"),
        ("q.csv", 'question,answer\n"q,a\n', "q.csv: row 1 has an unclosed quote"),
        ("q.csv", b"question,answer\nq,\xe9\n", "q.csv: not UTF-8"),
        ("q.csv", "question,answer,is_impossible\nq,,True\n", "q.csv: no question has an answer"),
        ("q.txt", "q", "q.txt: must be a .csv, .jsonl or .json file"),
        ("q.jsonl", b"", "q.jsonl: no questions"),
        ("q.jsonl", b"{}\n{", "q.jsonl: line 1 has no 'question' (it has: nothing)"),
        ("q.jsonl", [QUESTION, {"question": "q", "reply": 1}], "line 2 has no 'answer' (it has: question, reply)"),
        ("q.jsonl", b'{"question": "q", "answer": "a"}\n{', "q.jsonl: line 2 can't be read as JSON: Expecting"),
        ("q.jsonl", b"[" * 100_000, "q.jsonl: line 1 can't be read as JSON: "),
        ("q.jsonl", [["q", "a"]], "q.jsonl: line 1 is not a JSON object: ['q', 'a']"),
        ("q.jsonl", [{"question": None, "answer": "a"}], "q.jsonl: line 1: 'question' is not text: None"),
        ("q.jsonl", [{"question": "q", "answer": None}], "q.jsonl: line 1: 'answer' is not text: None"),
        ("q.jsonl", [{"question": "q", "answer": math.nan}], "q.jsonl: line 1: 'answer' is not text: nan"),
        ("q.jsonl", [{"question": "q", "answer": ["a", -math.inf]}], "q.jsonl: line 1: 'answer' is not text: -inf"),
        ("q.jsonl", [{"question": "q", "answer": ["a", ""]}], "q.jsonl: line 1 has an empty answer"),
        ("q.jsonl", [{"question": "q", "answers": [["a"]]}], "q.jsonl: line 1: 'answer' is not text: ['a']"),
        ("q.jsonl", [{"question": "q", "answers": {"start": 1}}], "q.jsonl: line 1: 'answer' is not text: None"),
        ("q.jsonl", [QUESTION | {"context": ""}], "q.jsonl: line 1 has an empty context"),
        ("q.jsonl", [QUESTION | {"paragraph": ""}], "q.jsonl: line 1 has an empty paragraph"),
        ("q.jsonl", [{"question": "\ud800", "answer": "a"}], "q.jsonl: line 1: 'question' holds half of a character"),
        ("q.jsonl", [{"questions": {"q": "a"}}], "q.jsonl: line 1: 'questions' is not a list"),
        ("q.json", {"data": [{"paragraphs": [{"qas": [{"answers": []}]}]}]}, "article 1, paragraph 1, question 1 has"),
        ("q.json", [{"questions": [QUESTION, "q"]}], "q.json: item 1, question 2 is not a JSON object: q"),
        ("q.json", "5", "q.json is not a JSON object: 5"),
        ("q.json", "[", "q.json can't be read as JSON: "),
    ],
)
def test_errors_name_the_file_and_the_row(tmp_path, name, content, message):
    with pytest.raises(InputError) as caught:
        read(saved(tmp_path, name, content))
    assert message in str(caught.value) and str(caught.value).startswith(str(tmp_path))
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_a_group_that_is_no_column(tmp_path):
    path = saved(tmp_path, "q.jsonl", [QUESTION | {"kind": "x"}, QUESTION])
    with pytest.raises(InputError, match=r"^group=kind: .*q.jsonl: line 2 has no such column \(it has: question, ans"):
        read(path, "kind")
    with pytest.raises(InputError, match=r"q.jsonl: line 1: 'kind' is not text: \['x'\]"):
        read(saved(tmp_path, "q.jsonl", [QUESTION | {"kind": ["x"]}]), "kind")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("Answer:", "the template must hold {question}"),
        ("{question} {answer}", "the template holds {answer}; only {question} is filled in"),
    ],
)
def test_a_template_without_a_place_for_the_question(tmp_path, template, message):
    found = read(saved(tmp_path, "q.jsonl", [QUESTION]))
    with pytest.raises(InputError) as caught:
        ask(found, [], template, 0, 1)
    assert str(caught.value) == message


def test_files_of_which_one_alone_has_titles_are_refused(tmp_path):
    """The same paragraph would look like another."""
    untitled = tmp_path / "asked.csv"
    untitled.write_text("question,answer,paragraph\nWho built it?,Joen,hask\nWhere?,Rome,other\n")
    titled = tmp_path / "pool.csv"
    titled.write_text("question,answer,paragraph,title\nWho made it?,Joen,hask,Ferry\nWhen?,1850,mill,Mills\n")
    loose = tmp_path / "loose.csv"
    loose.write_text("question,answer\nWhat?,That\nWhich?,This\n")
    asked, pool, others = (read(str(path)) for path in (untitled, titled, loose))
    for pair in ((asked, pool), (pool, asked)):
        with pytest.raises(
            InputError, match=r"asked.csv: row 1 has no 'title' and \S+pool.csv: row 1 has one, .*; give both"
        ):
            ask(*pair, "{question}", 1, 1)
    # Questions without paragraphs are about no paragraph of another file.
    for pair in ((asked, others), (pool, others), (others, pool)):
        ask(*pair, "{question}", 1, 1)


def test_a_null_beside_an_answer_says_nothing(tmp_path):
    path = saved(tmp_path, "q.jsonl", [{"question": "Who?", "answer": "Ann", "answers": None}])
    assert [one.answers for one in read(path)] == [["Ann"]]
