"""Free questions, about any texts: read from CSV, JSONL or SQuAD's JSON, and asked with examples. Needs no torch.

A row holds `question` and `answer`. In JSON `answer` or `answers` may be a list, of texts or of SQuAD's {"text": ...};
in CSV `|` stands between the answers that are accepted. What paragraph a question is about is told by `paragraph` (what
it is called) or `context` or `text` (what it says), within `title` if that is there. Where JSON holds lists in lists
(`data`, `paragraphs`, `qas`, `questions`), a question has the keys of all that it lies in.
"""

import itertools
import json
import math
import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from utils import texts
from utils.errors import InputError, one_line, printable
from utils.questions import Question, check_blanks, same_words, with_examples

# The lists of SQuAD's JSON, and what an error calls one of each.
LISTS = {"data": "article", "paragraphs": "paragraph", "qas": "question", "questions": "question"}

# What a row may say, whatever other columns it has.
COLUMNS = ("question", "answer", "answers", "is_impossible", "paragraph", "context", "text", "title", *LISTS)

# The field of all questions where no `group` is asked for.
ALL = "all"


@dataclass
class FreeQuestion:
    """answers: all that are accepted, the first of which is the gold answer; none where there is no answer.

    paragraph: what tells its paragraph from others; name: what the results call that; group: by what its scores are
    given; place: what an error calls the question ("q.csv: row 3").
    """

    question: str
    answers: list[str]
    paragraph: tuple
    name: str
    group: str
    place: str


def read(path: str, group: str | None = None) -> list[FreeQuestion]:
    """All questions of the file, in its order; `group` names the column that their scores are given by.

    Raises InputError that names the file, and the row where it is one's: a question, an answer or a group that is
    missing or empty.
    """
    found = []
    # Of each title the paragraphs that are told by what they say, numbered as they come.
    numbers: dict[str, dict[str, int]] = defaultdict(dict)
    for place, cells in rows(path):
        check_spelling(place, cells)
        if "question" not in cells:
            raise InputError(f"{place} has no 'question' ({columns_of(cells)})")
        question = text_in(place, cells, "question")
        title = text_in(place, cells, "title") if str(cells.get("title") or "").strip() else ""
        said = next((column for column in ("context", "text") if column in cells), None)
        if "paragraph" in cells:
            called = text_in(place, cells, "paragraph")
            paragraph, name = (title, called), f"{title} ({called})" if title else called
        elif said:
            content = text_in(place, cells, said)
            number = numbers[title].setdefault(content, len(numbers[title]) + 1)
            paragraph, name = (title, content), f"{title} ({number})" if title else f"paragraph {number}"
        elif title:
            paragraph, name = (title,), title
        else:
            paragraph, name = ("question", question), place.removeprefix(f"{path}: ")
        if group is not None and group not in cells:
            raise InputError(f"group={group}: {place} has no such column ({columns_of(cells)})")
        group_name = ALL if group is None else text_in(place, cells, group)
        found.append(FreeQuestion(question, answers_in(place, cells), paragraph, name, group_name, place))
    if not found:
        raise InputError(f"{path}: no questions")
    if not any(one.answers for one in found):
        raise InputError(f"{path}: no question has an answer")
    return found


def ask(
    questions: list[FreeQuestion], pool: list[FreeQuestion], template: str, shots: int, seed: int
) -> list[Question]:
    """Each question that has an answer, in their order, with `shots` examples from the pool.

    A question's examples depend on the pool, the seed, its paragraph and itself, not on what else is asked. None is
    about its paragraph, and none is the same question about another.
    """
    check_titles(questions, pool)
    template = "\n".join(template.strip().splitlines())
    check_blanks("the template", template, "question")
    told = [(example, *known_by(example)) for example in pool if example.answers]
    shared = Counter(itertools.chain(*(known for _, *known in told)))
    choices = choices_of(questions)
    asked = []
    for one in questions:
        if not one.answers:
            continue
        draw = random.Random(f"{seed} {one.paragraph} {one.question}")
        # So many that enough remain, whichever are drawn.
        paragraph, question = known_by(one)
        drawn = draw.sample(told, min(len(told), shots + shared[paragraph] + shared[question]))
        others = [other for other, about, asking in drawn if about != paragraph and asking != question]
        if len(others) < shots:
            raise InputError(
                f"shots={shots}: the examples have {len(others)} questions about paragraphs other than that of "
                f"{one.place}; lower shots, or give examples=... of other paragraphs"
            )
        examples = [(template.replace("{question}", other.question), other.answers[0]) for other in others[:shots]]
        asked.append(
            Question(
                field=one.group,
                name=one.name,
                prompt=with_examples(examples, template.replace("{question}", one.question)),
                answer=one.answers[0],
                choices=choices_for(one, choices[one.group]),
                place=one.place,
                accepted=one.answers,
                question=one.question,
            )
        )
    return asked


def known_by(question: FreeQuestion) -> tuple[tuple[str, ...], str]:
    """Its paragraph and its words, normalised: Unicode form, white space and (in the words) case do not count, since
    two files may differ in them, and one file within itself."""
    paragraph = tuple(" ".join(unicodedata.normalize("NFC", part).split()) for part in question.paragraph)
    return paragraph, same_words(question.question)


def check_titles(questions: list[FreeQuestion], pool: list[FreeQuestion]) -> None:
    """Raise InputError if both name paragraphs, and only one of them has titles: the same paragraph would look like
    another, and serve as an example."""
    files = [
        [one for one in file if len(one.paragraph) == 2 and one.paragraph[0] != "question"]
        for file in (questions, pool)
    ]
    titled = [next((one for one in file if one.paragraph[0]), None) for file in files]
    if all(files) and (titled[0] is None) != (titled[1] is None):
        without = files[0][0] if titled[0] is None else files[1][0]
        raise InputError(
            f"{without.place} has no 'title' and {(titled[0] or titled[1]).place} has one, so their paragraphs can't be"
            " told apart; give both files titles, or neither"
        )


def choices_of(questions: list[FreeQuestion]) -> dict[str, list[str]]:
    """For each group the gold answers that occur in it, or none where they hardly repeat: where each is given fewer
    than twice on average there is little to choose among, and the work grows with the square of the questions."""
    golds = defaultdict(list)
    for one in questions:
        golds[one.group] += one.answers[:1]
    different = {group: sorted(set(answers)) for group, answers in golds.items()}
    return {group: found if 2 * len(found) <= len(golds[group]) else [] for group, found in different.items()}


def choices_for(question: FreeQuestion, choices: list[str]) -> list[str]:
    """Without the other answers that are accepted; none where nothing is left beside the gold answer."""
    left = [choice for choice in choices if choice not in question.answers[1:]]
    return left if len(left) > 1 else []


def check_spelling(place: str, cells: dict) -> None:
    """Raise InputError if a column's name is one of COLUMNS except for capitals or spaces: it would pass as the user's
    own column, and a question would lose its paragraph, say."""
    for column in cells:
        meant = str(column).strip().lower()
        if column != meant and meant in COLUMNS and meant not in cells:
            raise InputError(f"{place}: column {printable(str(column), 40)!r}: did you mean {meant!r}?")


def rows(path: str) -> Iterator[tuple[str, dict]]:
    """(place, columns) of each question in the file, whatever its columns."""
    read_file = {".csv": csv_rows, ".jsonl": jsonl_rows, ".json": json_rows}.get(Path(path).suffix.lower())
    if read_file is None:
        raise InputError(f"{path}: must be a .csv, .jsonl or .json file")
    if Path(path).exists() and not Path(path).is_file():
        raise InputError(f"{path}: not a file")
    try:
        yield from read_file(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8; save it as UTF-8 ({one_line(error)})") from error


def csv_rows(path: str) -> Iterator[tuple[str, dict]]:
    def check_header(columns: list[str]) -> None:
        texts.check_commas(path, "question", columns)
        if not {"question", "answer"} <= set(columns):
            found = texts.shown(columns)
            raise InputError(f"{path}: needs a column 'question' and a column 'answer' (columns: {found})")
        # Any of them may be a group. Those without a name, as spreadsheets write them, are none.
        for column in filter(None, columns):
            texts.check_column(path, column, columns)

    for row, cells in texts.csv_records(path, check_header):
        # `answers` is for JSON's lists: in CSV it would be what a program writes of one.
        cells.pop("answers", None)
        yield f"{path}: row {row}", cells | {"answer": cells["answer"].split("|")}


def jsonl_rows(path: str) -> Iterator[tuple[str, dict]]:
    with open(path, encoding="utf-8-sig") as opened:
        for number, line in enumerate(opened, start=1):
            if line.strip():
                yield from questions_in(f"{path}: line {number}", parsed(f"{path}: line {number}", line))


def json_rows(path: str) -> Iterator[tuple[str, dict]]:
    content = parsed(path, Path(path).read_text(encoding="utf-8-sig"))
    if not isinstance(content, list):
        return questions_in(path, content)
    return itertools.chain(*(questions_in(f"{path}: item {number}", one) for number, one in enumerate(content, 1)))


def parsed(place: str, content: str) -> object:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} can't be read as JSON: {one_line(error)}") from error


def questions_in(place: str, item: object) -> Iterator[tuple[str, dict]]:
    """The questions in a JSON object, each with the object's own keys; itself, where it holds no list of them."""
    if not isinstance(item, dict):
        raise InputError(f"{place} is not a JSON object: {printable(str(item), 40)}")
    inside = next((key for key in LISTS if key in item), None)
    if inside is None:
        yield place, item
        return
    if not isinstance(item[inside], list):
        raise InputError(f"{place}: {inside!r} is not a list")
    outer = {key: value for key, value in item.items() if key != inside}
    for number, one in enumerate(item[inside], start=1):
        inner_place = f"{place}, {LISTS[inside]} {number}"
        yield from questions_in(inner_place, outer | one if isinstance(one, dict) else one)


def text_in(place: str, cells: dict, column: str) -> str:
    return text_of(place, column, cells[column])


def text_of(place: str, column: str, value: object) -> str:
    """A value without the white space around it; InputError if it is empty, or no text."""
    if isinstance(value, (int, float)) and math.isfinite(value):  # NaN is how Python's JSON has a missing value
        value = str(value)
    if not isinstance(value, str):
        raise InputError(f"{place}: {column!r} is not text: {printable(str(value), 40)}")
    if not value.strip():
        hint = "; is_impossible=true is for a question without an answer" if column == "answer" else ""
        raise InputError(f"{place} has an empty {column}{hint}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{place}: {column!r} holds half of a character: {error.reason}") from error
    return value.strip()


def answers_in(place: str, cells: dict) -> list[str]:
    """The answers that are accepted, on one line each; none where the row says that there is none: an empty list, or
    SQuAD's `is_impossible`."""
    if is_impossible(place, cells.get("is_impossible")):
        return []
    there = [cells[column] for column in ("answers", "answer") if column in cells]
    if not there:
        raise InputError(f"{place} has no 'answer' ({columns_of(cells)})")
    given = next((answers for answers in there if answers is not None), None)
    if isinstance(given, dict):  # as the datasets library has SQuAD: {"text": [...]}
        given = given.get("text")
    accepted = [
        one.get("text") if isinstance(one, dict) else one for one in (given if isinstance(given, list) else [given])
    ]
    answers = (texts.on_one_line(text_of(place, "answer", one)) for one in accepted)
    return list(dict.fromkeys(answers))


def is_impossible(place: str, value: object) -> bool:
    """What SQuAD's `is_impossible` says, in JSON or as a spreadsheet may write it; a missing or empty one says no."""
    said = {"true": True, "1": True, "false": False, "0": False, "": False, "none": False}
    found = said.get(str(value).strip().lower())
    if found is None:
        raise InputError(f"{place}: 'is_impossible' is neither true nor false: {printable(str(value), 40)}")
    return found


def columns_of(cells: dict) -> str:
    return f"it has: {texts.shown(cells) if cells else 'nothing'}"
