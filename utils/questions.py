"""Few-shot questions about people, with the gold answers and the answers to choose among. Needs no torch.

Those about anything else are in utils.free_questions.
"""

import dataclasses
import random
import re
import unicodedata
from pathlib import Path

from utils import biography, texts
from utils.errors import InputError

# What programs that read a CSV file take for a missing value, in any case.
LOOKS_MISSING = {"", "#n/a", "#na", "-nan", "<na>", "n/a", "na", "nan", "none", "null"}


@dataclasses.dataclass
class Question:
    """`prompt` is followed by a space and the answer; `choices` are the answers of this field that occur, none if there
    is one alone.

    name: the person's, as `labels` has it, or a paragraph's; place: what an error calls the question; accepted: the
    answers that are right, `answer` the first of them; question: a free one's own words.
    """

    field: str
    name: str
    prompt: str
    answer: str
    choices: list[str]
    place: str = ""
    accepted: list[str] = dataclasses.field(default_factory=list)
    question: str = ""

    def __post_init__(self):
        self.place = self.place or f"{self.field} of {self.name}"
        self.accepted = self.accepted or [self.answer]


def read_prompts(path: str | Path) -> dict[str, str]:
    """{field: prompt with {name} in it} from a CSV file with the columns `field` and `prompt`."""

    def check_header(names: list[str]) -> None:
        texts.check_commas(path, "field", names)
        if not {"field", "prompt"} <= set(names):
            raise InputError(f"{path}: needs the columns 'field' and 'prompt' (columns: {texts.shown(names)})")
        for column in ("field", "prompt"):
            texts.check_column(path, column, names)

    prompts: dict[str, str] = {}
    try:
        for row, cells in texts.csv_records(path, check_header):
            field = cells["field"].strip()
            if not re.fullmatch(biography.TAG_NAME, field):
                raise InputError(f"{path}: row {row}: field {field!r} is not a tag; use lower-case letters and _")
            if field in prompts:
                raise InputError(f"{path}: field {field!r} has two prompts")
            # One space stands between a prompt and its answer, and a prompt's own lines end in \n, whatever the file
            # has.
            prompts[field] = "\n".join(cells["prompt"].strip().splitlines())
    except UnicodeDecodeError as error:
        raise texts.not_utf_8(path, error) from error
    for field, prompt in prompts.items():
        check_blanks(f"{path}: the prompt of field {field!r}", prompt, "name")
    if not prompts:
        raise InputError(f"{path}: no prompts")
    return prompts


def check_blanks(what: str, prompt: str, blank: str) -> None:
    """Raise InputError unless `blank`, in braces, is in the prompt, and nothing else in braces is."""
    if f"{{{blank}}}" not in prompt:
        raise InputError(f"{what} must hold {{{blank}}}")
    if r"\n" in prompt:
        raise InputError(f"{what} holds a backslash and an n, which is no line break; type the line break itself")
    others = set(re.findall(r"\{\s*[^\W\d]\w*\s*\}", prompt)) - {f"{{{blank}}}"}
    if others:
        raise InputError(f"{what} holds {min(others)}; only {{{blank}}} is filled in")


def with_examples(examples: list[tuple[str, str]], prompt: str) -> str:
    """The examples, each a prompt, a space and its answer, and then the prompt; a blank line between them."""
    return "\n\n".join([*(f"{example_prompt} {answer}" for example_prompt, answer in examples), prompt])


def same_words(text: str) -> str:
    """The text without what does not count in a comparison: its Unicode form, white space and case."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def labels(people: list[dict[str, str]]) -> list[str]:
    """What each person is called in the results: by name or, where the names do not tell all people apart, by name and
    row: "Ada Moe (row 2)"."""
    names = [person["name"] for person in people]
    if len(set(names)) == len(names) and not any(name.lower() in LOOKS_MISSING for name in names):
        return names
    return [f"{name} (row {row})" for row, name in enumerate(names, start=1)]


def ask(
    people: list[dict[str, str]], pool: list[dict[str, str]], prompts: dict[str, str], shots: int, seed: int, first: int
) -> list[Question]:
    """For each field, a question about each of the `first` people, with `shots` examples from the pool.

    A question's examples depend on the pool, the seed, its field and its person's name, not on who else is asked;
    nobody is their own example.
    """
    questions = []
    called = labels(people)
    pool_names = [same_words(other["name"]) for other in pool]
    for field, template in prompts.items():
        choices = sorted({person[field] for person in people})
        if len(choices) == 1:
            choices = []  # nothing to choose among
        for person, label in zip(people[:first], called, strict=False):
            own = same_words(person["name"])
            others = [other for other, name in zip(pool, pool_names, strict=True) if name != own]
            if len(others) < shots:
                raise InputError(f"shots={shots}: the examples have {len(others)} people besides {person['name']}")
            draw = random.Random(f"{seed} {field} {person['name']}").sample(others, shots)
            examples = [(template.replace("{name}", example["name"]), example[field]) for example in draw]
            prompt = with_examples(examples, template.replace("{name}", person["name"]))
            questions.append(Question(field, label, prompt, person[field], choices))
    return questions
