"""Tagged text and its CSV files: what is taken off, what is left alone, and which row an error names."""

import csv
import random
import re
import time

import pytest

from utils.biography import field_spans, read_people, read_texts, strip_tags
from utils.errors import InputError


def write_rows(path, texts, encoding="utf-8"):
    with open(path, "w", newline="", encoding=encoding) as opened:
        csv.writer(opened, quoting=csv.QUOTE_ALL).writerows([["text"], *([text] for text in texts)])
    return path


@pytest.mark.parametrize(
    ("tagged", "plain"),
    [
        ("<name>Zoë</name> was born on <date>May 1, 1950</date>.", "Zoë was born on May 1, 1950."),
        ("<name>Ann</name><city>Bonn</city>", "AnnBonn"),
        ("<name>Ann</name> and <name>Bob</name>", "Ann and Bob"),
        ("<major>film\nstudies</major>", "film\nstudies"),
        ("x<city></city>y", "xy"),
        ("<company>a < b</company>", "a < b"),
    ],
)
def test_tags_are_removed_and_their_content_stays(tagged, plain):
    assert strip_tags(tagged) == plain


@pytest.mark.parametrize("text", ["one<br>two", "a < b and c > d", "<name>Ann", "Ann</name>", "<name>Ann</city>", "<>"])
def test_what_is_no_pair_of_tags_is_left_alone(text):
    assert strip_tags(text) == text
    assert field_spans(text) == (text, {})


def test_field_spans_are_those_of_the_first_of_each_tag_in_the_text_without_tags():
    text, spans = field_spans("So <name>Ann</name> of <city>Bonn</city> met <name>Bob</name>.")
    assert text == "So Ann of Bonn met Bob."
    assert spans == {"name": (3, 6), "city": (10, 14)}


def test_nested_tags_go_as_well():
    tagged = "<name><first>Ann</first> Lee</name> of <city>Bonn</city>"
    assert strip_tags(tagged) == "Ann Lee of Bonn"
    assert field_spans(tagged) == ("Ann Lee of Bonn", {"name": (0, 7), "city": (11, 15)})


def without_any_tag(tagged: str) -> str:
    return re.sub(r"</?[a-z_]+>", "", tagged)


def one_pair_at_a_time(tagged: str) -> str:
    while (without_one := re.sub(r"<([a-z_]+)>(.*?)</\1>", r"\2", tagged, count=1, flags=re.DOTALL)) != tagged:
        tagged = without_one
    return tagged


def test_any_tags_in_any_order():
    draw = random.Random(0)
    pieces = ["<a>", "</a>", "<b>", "</b>", "<br>", "x", "y z", "\n"]
    for _ in range(2000):
        tagged = "".join(draw.choices(pieces, k=draw.randrange(12)))
        plain = one_pair_at_a_time(tagged)
        assert strip_tags(tagged) == plain, tagged
        assert field_spans(tagged)[0] == plain, tagged
        first = re.search(r"<([a-z_]+)>(.*?)</\1>", tagged, re.DOTALL)
        if first:
            # What lies within the first pair, and before it, all tags aside.
            start, end = field_spans(tagged)[1][first[1]]
            assert without_any_tag(plain[start:end]) == without_any_tag(first[2]), tagged
            assert without_any_tag(plain[:start]) == without_any_tag(tagged[: first.start()]), tagged


def test_many_tags_without_a_partner_take_no_time():
    text = "<p>one<br>" * 50_000
    begun = time.monotonic()
    assert strip_tags(text) == text
    assert field_spans(text) == (text, {})
    # A search for a partner of each would take minutes.
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_texts_come_back_as_they_were_written(tmp_path, encoding):
    texts = [
        'She said "yes", twice',
        "O'Neil's",
        "Łódź, 東京 and 🙂",
        "two\nlines",
        "two\r\nlines",
        " spaces ",
        "<name>Ann</name>",
        "long " * 50_000,
    ]
    assert list(read_texts(write_rows(tmp_path / "texts.csv", texts, encoding))) == texts


def test_other_columns_are_passed_over(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text('id,text\n1,"a, b"\n2,c\n', encoding="utf-8")
    assert list(read_texts(path)) == ["a, b", "c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"name\nAnn\n", "no column 'text'"),
        (b"text\n", "no rows"),
        (b"text,id,text\na,1,b\n", "two columns 'text'"),
        (b"text,id\na,1\nb\n", "row 2 has more or fewer fields"),
        (b"text,id\na,1\nb,2\nc,3,4\n", "row 3 has more or fewer fields"),
        (b'text\na\n""\n', "row 2 has an empty text"),
        (b"text\na\n<name></name>\n", "row 2 has an empty text"),
        (b"text\na\n<name>Ann</nam>\n", "row 2 has <name> without its other half"),
        ("text\nZoë\n".encode("latin-1"), "not a UTF-8 CSV file"),
        (b'text\n"never closed\n', "row 1 has an unclosed quote"),
    ],
)
def test_errors_name_file_and_row(tmp_path, content, message):
    path = tmp_path / "texts.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        list(read_texts(path))
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "missing.csv", tmp_path):
        with pytest.raises(InputError, match=str(path)):
            list(read_texts(path))


def test_read_people_puts_a_field_that_is_wrapped_on_one_line(tmp_path):
    path = tmp_path / "people.csv"
    path.write_bytes(b'text\n"<name>Ann\nLee</name> of <city>New \r\n  York</city>."\n')
    assert read_people(path, ["city"]) == [{"name": "Ann Lee", "city": "New York"}]


def test_read_people(tmp_path):
    rows = ["<name>Ann</name> of <city>Bonn</city>", "In <city>Łódź</city> lives <name>Bob</name>"]
    path = write_rows(tmp_path / "people.csv", rows)
    assert read_people(path, ["city"]) == [{"name": "Ann", "city": "Bonn"}, {"name": "Bob", "city": "Łódź"}]


def test_spaces_around_a_field_are_no_part_of_it(tmp_path):
    path = write_rows(tmp_path / "people.csv", ["<name> Ann </name> of <city>Bonn\t</city>"])
    assert read_people(path, ["city"]) == [{"name": "Ann", "city": "Bonn"}]


@pytest.mark.parametrize(
    ("second", "tag"),
    [("<name>Bob</name>", "city"), ("<city>Bonn</city>", "name"), ("<name> </name> <city>Bonn</city>", "name")],
)
def test_read_people_names_the_row_and_the_tag_it_lacks(tmp_path, second, tag):
    path = write_rows(tmp_path / "people.csv", ["<name>Ann</name> of <city>Bonn</city>", second])
    with pytest.raises(InputError, match=f"row 2 has no <{tag}>") as caught:
        read_people(path, ["city"])
    assert str(path) in str(caught.value)
