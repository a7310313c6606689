"""Draw whole paragraphs at random, with their questions, from SQuAD's JSON or from the paper's Wikipedia data.

    python data/draw_paragraphs.py dev-v1.1.json --paragraphs 100 --seed 1 --output data_drawn/squad
    python data/draw_paragraphs.py lmqg/qa_harvesting_from_wikipedia --paragraphs 100 --seed 1 --output data_drawn/wiki

SOURCE is a file of questions, SQuAD's or as data/README.md describes them, each with its paragraph in `context` or
`text`; or a data set of that form on the hub, whose training part is read row by row (that takes a network, and was
never done here: the tests read such a data set from a folder); or a folder with a copy of the hub's Parquet files.

It writes three files, or none:

    NAME.jsonl             the paragraphs, for stages 1, 3 and 4: `paragraph`, its number in the draw, `title`, `text`
    NAME_questions.jsonl   the questions about them, for evaluate.py's `questions`: `paragraph`, `title`, `question`,
                           `answers`
    NAME_examples.jsonl    questions about 20 other paragraphs, for its `examples`

Every paragraph has a lot, a hash of the seed and its text; the lowest are drawn, in that order. So the same paragraphs
come whatever form or order the source has, and a longer draw begins with the shorter one. One pass does, in which no
more is held than what is drawn; but a .json file is read as a whole.
"""

import argparse
import bisect
import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import free_questions
from utils.artifacts import check_writable, whole_file
from utils.errors import InputError, one_line

# The paragraphs whose questions are the examples.
EXAMPLES = 20

# The hub's own copy of each data set. What the paper's comes as is a script, which the library no longer runs.
PARQUET = "refs/convert/parquet"


@dataclass
class Paragraph:
    """title: {"title": ...}, or nothing where the source has none; questions: `question` and `answers` of each."""

    title: dict[str, str]
    text: str
    questions: list[dict] = field(default_factory=list)


def read(source: str) -> Iterator[tuple[str, dict]]:
    """(place, columns) of each question; a place is what an error calls it."""
    if Path(source).is_dir():
        return library_rows(source, None)
    if Path(source).exists() or Path(source).suffix in (".json", ".jsonl", ".csv"):
        return free_questions.rows(source)
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source):
        return library_rows(source, PARQUET)
    raise InputError(
        f"{source}: no such file; give a .json, .jsonl or .csv file, or a data set's owner/name on the hub"
    )


def library_rows(source: str, revision: str | None) -> Iterator[tuple[str, dict]]:
    """The rows of a data set, from the hub or a folder, as they come: none is kept."""
    import datasets

    try:
        rows = datasets.load_dataset(source, revision=revision, split="train", streaming=True)
        for number, cells in enumerate(rows, start=1):
            yield f"{source}: row {number}", cells
    except Exception as error:  # the library's, the hub client's, and those of reading Parquet
        raise InputError(
            f"{source}: can't be read by the datasets library: {one_line(error)}; give a file or a folder in its place"
        ) from error


def draw(questions: Iterable[tuple[str, dict]], count: int, seed: int) -> tuple[list[Paragraph], int]:
    """`count` of the paragraphs that are asked about, or all where there are fewer, in the order of their lots, with
    all their questions; and how many questions, of all paragraphs, are left out since they have no answer."""
    # A paragraph whose lot is among the lowest at the end has been so from its first question on.
    lowest: list[bytes] = []
    held: dict[bytes, Paragraph] = {}
    unanswerable = 0
    for place, cells in questions:
        column = "context" if "context" in cells else "text"
        if not {"question", column} <= cells.keys():
            found = free_questions.columns_of(cells)
            raise InputError(f"{place} needs 'question', and its paragraph in 'context' or 'text' ({found})")
        question = free_questions.text_in(place, cells, "question")
        answers = free_questions.answers_in(place, cells)
        if not answers:
            unanswerable += 1
            continue
        text = free_questions.text_in(place, cells, column)
        lot = hashlib.sha256(f"{seed} {text}".encode()).digest()
        if lot not in held:
            if len(lowest) == count and lot > lowest[-1]:
                continue
            bisect.insort(lowest, lot)
            title = {"title": free_questions.text_in(place, cells, "title")} if "title" in cells else {}
            held[lot] = Paragraph(title, text)
            if len(lowest) > count:
                del held[lowest.pop()]
        held[lot].questions.append({"question": question, "answers": answers})
    return [held[lot] for lot in lowest], unanswerable


def write(name: str, paragraphs: list[Paragraph], count: int) -> None:
    """The first `count` paragraphs and the questions about them; those about the others are the examples."""
    texts, asked, examples = [], [], []
    for number, one in enumerate(paragraphs, start=1):
        # Numbered through, so that no example is taken to be about a paragraph that is asked about.
        called = {"paragraph": number} | one.title
        if number <= count:
            texts.append(called | {"text": one.text})
        (asked if number <= count else examples).extend(called | question for question in one.questions)
    with contextlib.ExitStack() as files:
        # All are written before the first takes its place.
        for path, rows in zip(paths(name), (texts, asked, examples), strict=True):
            aside = files.enter_context(whole_file(path))
            aside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def paths(name: str) -> list[Path]:
    return [Path(f"{name}{ending}.jsonl") for ending in ("", "_questions", "_examples")]


def main(source: str, paragraphs: int, seed: int, name: str) -> None:
    if paragraphs < 2:
        raise InputError(f"--paragraphs {paragraphs}: two at least")
    check_writable("--output", *paths(name))
    drawn, unanswerable = draw(read(source), paragraphs + EXAMPLES, seed)
    if len(drawn) < paragraphs + EXAMPLES:
        raise InputError(
            f"{source}: has questions about {len(drawn)} paragraphs, and {paragraphs} and {EXAMPLES} for the examples "
            f"are needed; give a smaller --paragraphs, or a larger file"
        )
    write(name, drawn, paragraphs)
    counts = [len(one.questions) for one in drawn]
    print(f"{name}.jsonl: {paragraphs} paragraphs")
    print(f"{name}_questions.jsonl: {sum(counts[:paragraphs])} questions about them")
    print(f"{name}_examples.jsonl: {sum(counts[paragraphs:])} questions about {EXAMPLES} others")
    if unanswerable:
        print(f"{unanswerable} questions of {source} have no answer and were left out")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw whole paragraphs at random, with their questions.")
    parser.add_argument("source", metavar="SOURCE", help="a file of questions, or a data set's owner/name on the hub")
    parser.add_argument("--paragraphs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", metavar="NAME", required=True, help="NAME.jsonl and two files beside it")
    arguments = parser.parse_args()
    try:
        main(arguments.source, arguments.paragraphs, arguments.seed, arguments.output)
    except InputError as error:
        print(f"draw_paragraphs.py: {error}", file=sys.stderr)
        sys.exit(2)
