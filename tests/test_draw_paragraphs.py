"""data/draw_paragraphs.py: which paragraphs are drawn from which source, and what is written of them."""

import copy
import hashlib
import json
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from data import draw_paragraphs
from tests.conftest import ROOT, squad
from utils import free_questions, texts
from utils.errors import InputError

SQUAD = squad(60)
# Every fifth has no answer.
USABLE = 48
ARTICLES = [(article["title"], paragraph) for article in SQUAD["data"] for paragraph in article["paragraphs"]]
ROWS = [
    {"title": title, "context": paragraph["context"]} | question
    for title, paragraph in ARTICLES
    for question in paragraph["qas"]
]


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def nested(folder: Path) -> Path:
    (folder / "squad.json").write_text(json.dumps(SQUAD))
    return folder / "squad.json"


def flat(folder: Path) -> Path:
    made = [{"title": title, "context": one["context"], "questions": one["qas"]} for title, one in ARTICLES]
    (folder / "flat.json").write_text(json.dumps(made))
    return folder / "flat.json"


def lines(folder: Path) -> Path:
    return write_lines(folder / "rows.jsonl", ROWS)


def parquet(folder: Path) -> Path:
    """As the hub keeps its copies, with the answers as the datasets library has SQuAD's."""
    rows = copy.deepcopy(ROWS)
    for row in rows:
        row["answers"] = {key: [answer[key] for answer in row["answers"]] for key in ("text", "answer_start")}
    kind = pyarrow.struct([("text", pyarrow.list_(pyarrow.string())), ("answer_start", pyarrow.list_(pyarrow.int32()))])
    columns = [(name, pyarrow.string()) for name in ("title", "context", "question")]
    schema = pyarrow.schema([*columns, ("answers", kind)])
    (folder / "copy/harvested/train").mkdir(parents=True)
    for number, part in enumerate((rows[:50], rows[50:])):
        table = pyarrow.Table.from_pylist(part, schema)
        pyarrow.parquet.write_table(table, folder / f"copy/harvested/train/{number:04}.parquet")
    return folder / "copy"


def slowly_drawn(seed: int) -> list[tuple[str, dict]]:
    """All paragraphs that have an answer, by their lots."""
    usable = [(title, one) for title, one in ARTICLES if one["qas"][0]["answers"]]
    return sorted(usable, key=lambda one: hashlib.sha256(f"{seed} {one[1]['context']}".encode()).hexdigest())


@pytest.mark.parametrize("source", [nested, flat, lines, parquet], ids=lambda source: source.__name__)
def test_whole_paragraphs_are_drawn(tmp_path, monkeypatch, capsys, source):
    monkeypatch.setattr(draw_paragraphs, "EXAMPLES", 7)
    name = tmp_path / "drawn/some"
    draw_paragraphs.main(str(source(tmp_path)), 12, 3, str(name))
    expected = slowly_drawn(3)
    written, asked, examples = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in draw_paragraphs.paths(str(name))
    )
    assert sorted((tmp_path / "drawn").iterdir()) == sorted(draw_paragraphs.paths(str(name)))
    assert written == [
        {"paragraph": number, "title": title, "text": one["context"]}
        for number, (title, one) in enumerate(expected[:12], start=1)
    ]

    def questions(first: int, last: int) -> list[dict]:
        return [
            {"paragraph": number, "title": title, "question": each["question"]}
            | {"answers": [answer["text"] for answer in each["answers"]]}
            for number, (title, one) in list(enumerate(expected, start=1))[first:last]
            for each in one["qas"]
        ]

    assert asked == questions(0, 12)
    assert examples == questions(12, 19)
    printed = capsys.readouterr().out
    assert f"some_questions.jsonl: {len(asked)} questions about them" in printed
    assert f"some_examples.jsonl: {len(examples)} questions about 7 others" in printed
    assert f"{sum(not row['answers'] for row in ROWS)} questions of " in printed


def test_the_draw_does_not_depend_on_the_order_and_a_longer_one_goes_on():
    places = [("row", row) for row in ROWS]
    shuffled = random.Random(0).sample(places, len(places))
    drawn, _ = draw_paragraphs.draw(places, 20, 1)
    others, _ = draw_paragraphs.draw(shuffled, 20, 1)

    def key(question: dict) -> str:
        return question["question"]

    assert [(one.text, sorted(one.questions, key=key)) for one in others] == [
        (one.text, sorted(one.questions, key=key)) for one in drawn
    ]
    assert draw_paragraphs.draw(places, 30, 1)[0][:20] == drawn
    # Another seed draws others, in another order than the source's.
    seed_2_texts = [one.text for one in draw_paragraphs.draw(places, 20, 2)[0]]
    in_order = [paragraph["context"] for _, paragraph in ARTICLES if paragraph["context"] in seed_2_texts]
    assert set(seed_2_texts) != {one.text for one in drawn} and seed_2_texts != in_order
    assert len(draw_paragraphs.draw(places, 100, 1)[0]) == USABLE


def test_every_paragraph_is_drawn_as_often():
    places = [("row", row) for row in ROWS]
    counts = dict.fromkeys((one["context"] for _, one in slowly_drawn(0)), 0)
    for seed in range(400):
        for one in draw_paragraphs.draw(places, 12, seed)[0]:
            counts[one.text] += 1
    # 100 each, with a standard deviation of 8.7.
    assert min(counts.values()) > 60 and max(counts.values()) < 140


def test_no_more_is_held_than_what_is_drawn():
    def peak(paragraphs: int) -> int:
        rows = (
            ("row", {"context": f"{number} " + "x" * 1000, "question": "Which?", "answers": ["this"]})
            for number in range(paragraphs)
        )
        tracemalloc.start()
        draw_paragraphs.draw(rows, 20, 1)
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    assert peak(5000) < 1.5 * peak(500)


def test_what_is_drawn_is_read_by_the_stages(tmp_path):
    name = str(tmp_path / "some")
    draw_paragraphs.main(str(nested(tmp_path)), 12, 1, name)
    paragraphs, questions, examples = map(str, draw_paragraphs.paths(name))
    assert len(list(texts.read(paragraphs))) == 12
    asked, pool = free_questions.read(questions), free_questions.read(examples)
    assert len({one.paragraph for one in asked}) == 12 and len({one.paragraph for one in pool}) == 20
    assert not {one.paragraph for one in asked} & {one.paragraph for one in pool}
    made = free_questions.ask(asked, pool, "Q: {question}\nA:", 3, 1)
    assert len(made) == len(asked)
    assert made[0].accepted == asked[0].answers and len(asked[0].answers) == 2


def test_a_source_without_titles_has_none_in_what_is_drawn(tmp_path):
    rows = [{"text": f"Text {n}.", "question": f"Question {n}?", "answer": f"{n}"} for n in range(30)]
    name = str(tmp_path / "some")
    draw_paragraphs.main(str(write_lines(tmp_path / "rows.jsonl", rows)), 2, 1, name)
    keys = [set(json.loads(path.read_text().splitlines()[0])) for path in draw_paragraphs.paths(name)]
    assert keys == [{"paragraph", "text"}, {"paragraph", "question", "answers"}, {"paragraph", "question", "answers"}]


@pytest.mark.parametrize(
    ("rows", "paragraphs", "message"),
    [
        (ROWS, 29, "rows.jsonl: has questions about 48 paragraphs, and 29 and 20 for the examples are needed; give a"),
        (ROWS, 1, "--paragraphs 1: two at least"),
        (
            [{"question": "Who?", "answer": "Ada"}],
            2,
            "rows.jsonl: line 1 needs 'question', and its paragraph in 'context'",
        ),
        ([{"context": "A text.", "answer": "Ada"}], 2, "rows.jsonl: line 1 needs 'question', and its paragraph"),
        ([*ROWS[:3], {"context": "A text.", "question": " ", "answer": "Ada"}], 2, "line 4 has an empty question"),
        ([{"context": " ", "question": "Who?", "answer": "Ada"}], 2, "line 1 has an empty context"),
        ([{"context": "A text.", "question": "Who?"}], 2, "line 1 has no 'answer' (it has: context, question)"),
        ([{"context": "A text.", "question": "Who?", "answer": [""]}], 2, "line 1 has an empty answer"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tmp_path, rows, paragraphs, message):
    source = write_lines(tmp_path / "rows.jsonl", rows)
    (tmp_path / "some_questions.jsonl").write_text("as before")
    with pytest.raises(InputError) as raised:
        draw_paragraphs.main(str(source), paragraphs, 1, str(tmp_path / "some"))
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "some_questions.jsonl"]
    assert (tmp_path / "some_questions.jsonl").read_text() == "as before"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.json", "none.json: no such file"),
        ("none", "none: no such file; give a .json, .jsonl or .csv file, or a data set's owner/name on the hub"),
        # No test reaches a hub.
        (
            "lmqg/qa_harvesting_from_wikipedia",
            "lmqg/qa_harvesting_from_wikipedia: can't be read by the datasets library",
        ),
        ("empty", "empty: can't be read by the datasets library"),
    ],
)
def test_a_source_that_is_not_there(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with pytest.raises(InputError) as raised:
        draw_paragraphs.main(source, 2, 1, "some")
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_the_command_ends_in_one_line(tmp_path):
    command = [sys.executable, "data/draw_paragraphs.py", str(lines(tmp_path)), "--output", str(tmp_path / "some")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith("draw_paragraphs.py: ")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
