"""Texts from any file: what comes out of each kind, what an error names, and that no file is read as a whole."""

import csv
import json
import os
import random
import re
import string
import subprocess
import sys
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest

from tests.conftest import ROOT
from utils import biography, texts
from utils.errors import InputError

TEXTS = [
    'She said "yes", twice',
    "Łódź, 東京 and 🙂",
    "two\nlines",
    "two\r\nlines",
    " spaces ",
    "NA",
    "null",
    "<b>bold</b>",
]


def read(path, column="text") -> list[str]:
    return [text for _, text in texts.read(path, column)]


def write(path, found: list[str], column: str = "text"):
    """The texts as a file of the kind that its ending says, with another column before theirs."""
    if path.suffix == ".csv":
        with open(path, "w", newline="", encoding="utf-8") as opened:
            csv.writer(opened).writerows([["id", column], *([number, text] for number, text in enumerate(found))])
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": [1], column: text}) + "\n" for text in found))
    elif path.suffix == ".parquet":
        table = pyarrow.table({"id": list(range(len(found))), column: found})
        pyarrow.parquet.write_table(table, path, row_group_size=3 if len(found) < 100 else 1000)
    elif path.name == "flat.json":
        path.write_text(json.dumps([{"title": "T", "context": text, "questions": []} for text in found]))
    elif path.suffix == ".json":
        articles = [
            {"title": "{", "paragraphs": [{"qas": [{"id": 1.5}], "context": text} for text in found[begin : begin + 3]]}
            for begin in range(0, len(found), 3)
        ]
        path.write_text(json.dumps({"version": 1.1, "no": None, "data": articles, "more": []}, indent=1))
    else:
        path.mkdir()
        for number, text in enumerate(found):
            (path / f"{number:03}.txt").write_bytes(text.encode())
    return path


KINDS = ["texts.csv", "texts.jsonl", "texts.parquet", "flat.json", "nested.json"]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_come_back_as_they_were_written(tmp_path, kind):
    assert read(write(tmp_path / kind, TEXTS)) == TEXTS
    places = [place for place, _ in texts.read(tmp_path / kind)]
    unit = "line" if kind == "texts.jsonl" else "row"
    assert places == [f"{tmp_path / kind}: {unit} {row}" for row in range(1, len(TEXTS) + 1)]


@pytest.mark.parametrize("kind", ["texts.csv", "texts.jsonl", "texts.parquet"])
def test_another_column(tmp_path, kind):
    assert read(write(tmp_path / kind, TEXTS, "context"), "context") == TEXTS


def test_a_folder_of_text_files(tmp_path):
    folder = write(tmp_path / "folder", TEXTS)
    # Lines end as in all text files, and what ends the last is no part of the text.
    expected = [text.replace("\r\n", "\n").strip() for text in TEXTS]
    (folder / "notes.md").write_text("no text")
    (folder / ".hidden.txt").write_text("no text")
    (folder / "folder.txt").mkdir()
    (folder / "deeper").mkdir()
    (folder / "deeper/9.txt").write_text("no text")
    (folder / "010.TXT").write_text("\ufefflast\r\n", newline="")
    assert read(folder) == [*expected, "last"]
    assert [place for place, _ in texts.read(folder)][-2:] == [f"{folder}/007.txt", f"{folder}/010.TXT"]
    assert list(texts.read(folder / "001.txt")) == [(f"{folder}/001.txt", TEXTS[1])]


def test_a_paragraph_of_squads_json_is_read_once(tmp_path):
    for kind in ("flat.json", "nested.json"):
        path = write(tmp_path / kind, ["one", "two", "one", "one", "three", "two"])
        assert read(path) == ["one", "two", "three"]


def test_squads_json_is_read_as_the_json_module_reads_it(tmp_path, monkeypatch):
    """Whatever lies around the paragraphs, and wherever what is held ends."""
    draw = random.Random(0)

    def anything(depth: int):
        kind = draw.randrange(7 if depth else 5)
        if kind < 2:
            return "".join(draw.choices('ab"\\{}[],: \n\té🙂\u2028', k=draw.randrange(9)))
        if kind < 5:
            return draw.choice([None, True, 1.5e10, -3, 12345678901234567890])
        inner = [anything(depth - 1) for _ in range(draw.randrange(4))]
        return (
            inner
            if kind == 5
            else {f"{number}{draw.choice(string.punctuation)}": of for number, of in enumerate(inner)}
        )

    path = tmp_path / "texts.json"
    for _ in range(300):
        found = [f"{number}{anything(0)}" for number in range(draw.randrange(1, 6))]
        entries = [{"z": anything(3), "context": text, "a": anything(3)} for text in found]
        if draw.random() < 0.5:
            entries = {"v": anything(2), "w": anything(2), "data": [{"paragraphs": entries}, {"paragraphs": []}]}
        path.write_text(json.dumps(entries, ensure_ascii=draw.random() < 0.5, indent=draw.choice([None, 2])))
        monkeypatch.setattr(texts, "READ_CHARACTERS", draw.randrange(1, 40))
        assert read(path) == found


CONTENTS = [
    ("a.csv", b"", "a.csv: the file is empty"),
    ("a.csv", b"text\n", "a.csv: no rows"),
    ("a.csv", b'text\na\n""\n', "a.csv: row 2 has an empty text"),
    (
        "a.tsv",
        b"text\na\n",
        "a.tsv: unknown kind of file; texts are read from .csv, .jsonl, .parquet, .json, .txt, a folder",
    ),
    ("noending", b"text\na\n", "noending: unknown kind of file"),
    ("a.csv", b'"te"xt\na\n', "a.csv: the header has an unclosed quote, or a quote inside a field"),
    ("a.csv", b'text\n"a"b\n', "a.csv: row 1 has an unclosed quote, or a quote inside a field"),
    ("a.csv", b'text\na\n"b\nc\n', "a.csv: row 2 has an unclosed quote, or a quote inside a field"),
    (
        "a.csv",
        b"text\na\nb, c\n",
        "a.csv: row 2 has more or fewer fields than the header; put quotes around texts with commas",
    ),
    ("a.csv", b"id,text\n1,a\n2\n", "a.csv: row 2 has more or fewer fields than the header"),
    ("a.csv", b"A text. " * 100, "a.csv: no column 'text' (columns, separated by commas: A text. A text. "),
    ("a.csv", b'"a\nb\x1b[31m",c\n', r"a.csv: no column 'text' (columns, separated by commas: a\nb\x1b[31m, c); in"),
    ("a.jsonl", b"", "a.jsonl: no rows"),
    ("a.jsonl", b"\n \n", "a.jsonl: no rows"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "b"', "a.jsonl: line 2 is not JSON: "),
    ("a.jsonl", b'{"text": "a"}\n\n["b"]', "a.jsonl: line 3 is not a JSON object; a .jsonl file has one per line"),
    ("a.jsonl", b'{"text": "a"}\n{"body": "b", "id": 2}', "a.jsonl: line 2 has no 'text' (keys: body, id)"),
    ("a.jsonl", b'{"text": "a"}\n{"text": null}', "a.jsonl: line 2: 'text' is null, not text"),
    ("a.jsonl", b'{"text": 5}', "a.jsonl: line 1: 'text' is 5, not text"),
    ("a.jsonl", b'{"text": ""}', "a.jsonl: line 1 has an empty text"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "\xe9"}', "a.jsonl: line 2 is not UTF-8; save the file as UTF-8"),
    ("a.jsonl", rb'{"text": "a \ud83d"}', "a.jsonl: line 1 contains a lone surrogate"),
    ("a.jsonl", b"[" * 100_000, "a.jsonl: line 1 is not JSON"),
    ("a.jsonl", b'{"text": "a", "id": ' + b"9" * 5000 + b"}", "a.jsonl: line 1 is not JSON: Exceeds the limit"),
    ("a.jsonl", rb'{"a\nb": "a"}', r"a.jsonl: line 1 has no 'text' (keys: a\nb)"),
    ("a.parquet", b"", "a.parquet: can't be read as Parquet: "),
    ("a.parquet", b"PAR1" + b"\0" * 50 + b"PAR1", "a.parquet: can't be read as Parquet: "),
    ("a.json", b"", "a.json: not JSON, or not SQuAD's JSON, which is a list of objects"),
    ("a.json", b"[]", "a.json: no rows"),
    ("a.json", b'{"text": "a"}\n{"text": "b"}', "a.json: not JSON, or not SQuAD's JSON"),
    ("a.json", b'{"data": {"context": "a"}}', "a.json: not JSON, or not SQuAD's JSON"),
    ("a.json", b'{"rows": [1, 2]}', "a.json: not JSON, or not SQuAD's JSON"),
    ("a.json", b"5", "a.json: not JSON, or not SQuAD's JSON"),
    ("a.json", b'[{"context": "a"}, {"text": "b"}]', "a.json: entry 2 has no text 'context': not SQuAD's JSON"),
    ("a.json", b'[{"context": 1}]', "a.json: entry 1 has no text 'context'"),
    ("a.json", b'["a"]', "a.json: entry 1 has no text 'context'"),
    ("a.json", b'{"data": [{"paragraphs": {"context": "a"}}]}', "a.json: entry 1 has no text 'context'"),
    ("a.json", b'{"data": [{"paragraphs": ["a"]}]}', "a.json: entry 1 has no text 'context'"),
    ("a.json", b'[{"context": ""}]', "a.json: row 1 has an empty text"),
    ("a.json", b'[{"context": "a"}, {"context": "b"', "a.json: not JSON, or not SQuAD's JSON"),
    ("a.json", b'[{"context": "a"} {"context": "b"}]', "a.json: not JSON, or not SQuAD's JSON"),
    ("a.json", b'[{"context": "\xe9"}]', "a.json: not UTF-8; save it as UTF-8"),
    ("a.json", b'[{"context": ' + b"[" * 100_000, "a.json: not JSON, or not SQuAD's JSON"),
    ("a.json", b'[{"id": ' + b"9" * 5000 + b', "context": "a"}]', "a.json: not JSON, or not SQuAD's JSON"),
    # Two files put together, and one that is cut short behind its texts.
    ("a.json", b'[{"context": "a"}]\n[{"context": "b"}]', "a.json: not JSON, or not SQuAD's JSON"),
    ("a.json", b'{"data": [{"context": "a"}]}\n{"data": []}', "a.json: not JSON, or not SQuAD's JSON"),
    ("a.json", b'{"data": [{"context": "a"}]', "a.json: not JSON, or not SQuAD's JSON"),
    ("a.json", b'{"data": [{"context": "a"}], "version": }', "a.json: not JSON, or not SQuAD's JSON"),
    ("a.txt", b"", "a.txt has an empty text"),
    ("a.txt", b" \n\n", "a.txt has an empty text"),
    ("a.txt", b"\xe9", "a.txt: not UTF-8 text; save it as UTF-8"),
]


@pytest.mark.parametrize(("name", "content", "message"), CONTENTS)
def test_errors_name_file_and_row_on_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{tmp_path}/{message}")) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_parquet_file_without_such_a_column_or_text(tmp_path):
    path = write(tmp_path / "a.parquet", TEXTS, "body")
    with pytest.raises(InputError, match=r"a.parquet: no column 'text' \(columns: id, body\)"):
        read(path)
    with pytest.raises(InputError, match="a.parquet: row 1: 'id' is 0, not text"):
        read(path, "id")
    with pytest.raises(InputError, match="a.parquet: row 2: 'text' is null, not text"):
        read(write(tmp_path / "a.parquet", ["a", None]))


def test_a_parquet_file_with_two_such_columns_or_what_is_no_text(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table([["a"], ["b"]], names=["text", "text"]), path)
    with pytest.raises(InputError, match="a.parquet: two columns 'text'; keep one of them$"):
        read(path)
    # As other programs write it: nothing checks what stands in a column of strings.
    offsets = pyarrow.array([0, 1, 2], pyarrow.int32()).buffers()[1]
    latin_1 = pyarrow.StringArray.from_buffers(2, offsets, pyarrow.py_buffer(b"a\xe9"))
    pyarrow.parquet.write_table(pyarrow.table({"text": latin_1}), path)
    with pytest.raises(InputError, match="a.parquet: row 2 is not UTF-8; save the file as UTF-8"):
        read(path)


@pytest.mark.parametrize("kind", [pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())])
def test_a_parquet_files_strings_may_be_of_any_kind(tmp_path, kind):
    table = pyarrow.table({"text": pyarrow.array([*TEXTS, TEXTS[0]]).cast(kind), "a.text": ["b"] * (len(TEXTS) + 1)})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [*TEXTS, TEXTS[0]]
    assert set(read(tmp_path / "a.parquet", "a.text")) == {"b"}


def test_a_link_that_leads_nowhere_is_not_a_text_less(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "c.txt").symlink_to("a.txt")
    assert read(tmp_path) == ["a", "a"]
    (tmp_path / "b.txt").symlink_to("none.txt")
    with pytest.raises(InputError, match=re.escape(f"{tmp_path}/b.txt: no such file")):
        read(tmp_path)
    (tmp_path / "b.txt").unlink()
    os.mkfifo(tmp_path / "b.txt")
    with pytest.raises(InputError, match=re.escape(f"{tmp_path}/b.txt: not a file")):
        read(tmp_path)


def test_a_folder_without_texts_and_a_column_where_there_is_none(tmp_path):
    with pytest.raises(InputError, match="the folder holds no .txt file"):
        read(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("")
    with pytest.raises(InputError, match=re.escape(f"{tmp_path}/b.txt has an empty text")):
        read(tmp_path)
    for path in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(InputError, match=f"^text_column=context: {path} has no columns; leave it out$"):
            read(path, "context")


def plain(path, **keys) -> list[str]:
    return [text for text, _ in biography.read(path, **keys)]


@pytest.mark.parametrize("kind", KINDS)
def test_tags_are_looked_for_in_biographies_alone(tmp_path, kind):
    article = ["A <b>bold</b> word, a <br> and </i>.", "<author>Ann</author> & <p>"]
    path = write(tmp_path / kind, article)
    assert plain(path) == plain(path, tags=False) == article
    assert [tagged for _, tagged in biography.read(path)] == [None, None]
    assert plain(path, tags=True) == ["A bold word, a <br> and </i>.", "Ann & <p>"]
    lives = ["<name>Ann</name> was <b>here</b>.", "No tags."]
    path = write(tmp_path / kind, lives)
    assert plain(path) == plain(path, tags=True) == ["Ann was here.", "No tags."]
    assert [tagged for _, tagged in biography.read(path)] == lives
    assert plain(path, tags=False) == lives


def test_where_only_a_later_text_is_tagged_the_key_must_say_what_is_meant(tmp_path):
    path = write(tmp_path / "a.jsonl", ["No tags.", "<b>None</b> here.", "The element <name> begins one."])
    with pytest.raises(
        InputError, match="a.jsonl: line 3 has <name> and the first text has no such tag: tags=true takes"
    ):
        plain(path)
    assert plain(path, tags=False)[2] == "The element <name> begins one."
    with pytest.raises(InputError, match="a.jsonl: line 3 has <name> without its other half$"):
        plain(path, tags=True)
    path = write(tmp_path / "a.jsonl", ["The element <name> begins one."])
    with pytest.raises(InputError, match="line 1 has <name> without its other half; tags=false leaves tags as a part"):
        plain(path)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_the_file(tmp_path, kind):
    """In what Python allocates: the 27,000 texts that the longer file has more are 4 MB, and hashes of them 3."""
    peaks = []
    for count in (3_000, 30_000):
        path = write(tmp_path / kind, [f"{number} {'x' * 80}" for number in range(count)])
        tracemalloc.start()
        assert sum(1 for _ in texts.read(path)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < (140 * 27_000 if kind.endswith(".json") else 1_000_000)


def test_written_rows_are_read_again(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(texts.csv_rows(TEXTS[:3], header=True) + texts.csv_rows(TEXTS[3:], header=False))
    assert read(path) == TEXTS
    assert path.read_bytes().startswith(b'"text"\n"She said ""yes"", twice"\n')


def test_chunks_are_as_long_as_they_may_be():
    draw = random.Random(1)
    for _ in range(200):
        found = ["x" * draw.randrange(1, 9) for _ in range(draw.randrange(12))]
        made = list(texts.chunks(iter(found), 10))
        assert [text for _, chunk in made for text in chunk] == found
        assert [first for first, _ in made] == [
            sum(len(chunk) for _, chunk in made[:number]) for number in range(len(made))
        ]
        for number, (_, chunk) in enumerate(made):
            assert len(chunk) == 1 or sum(map(len, chunk)) <= 10
            if number + 1 < len(made):
                assert sum(map(len, chunk)) + len(made[number + 1][1][0]) > 10


def test_reading_needs_neither_torch_nor_pandas(tmp_path):
    """A moment to start, and nothing left in the working folder."""
    write(tmp_path / "a.parquet", TEXTS)
    code = (
        "import sys; from utils import texts; print(len(list(texts.read('a.parquet')))); "
        "print([name for name in ('torch', 'transformers', 'pandas', 'datasets') if name in sys.modules])"
    )
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == f"{len(TEXTS)}\n[]\n", done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_blank_lines_above_a_header_say_nothing(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\n  \r\ntext,b\na,1\n\nb,2\n")
    assert [text for _, text in texts.read(str(path))] == ["a", "b"]
