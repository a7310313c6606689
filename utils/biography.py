"""Tagged text: `<name>Ada Lovelace</name> was born on <date>...</date>`, its plain text and its fields."""

import itertools
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from utils import texts
from utils.errors import InputError

# The biographies' own tags; any other that stands alone may well be part of the text.
TAG = re.compile(r"</?(name|date|city|university|major|company)>")

TAG_NAME = "[a-z_]+"

ANY_TAG = re.compile(rf"<(/?)({TAG_NAME})>")


def read(path: str | Path, column: str = "text", tags: bool | str = "auto") -> Iterator[tuple[str, str | None]]:
    """Yield each text of a file (see utils.texts) without its tags, and with them: None where it has no tags.

    tags: True: all texts are tagged; False: none is, and what looks like a tag is text like any other; "auto": all are
    if the first one holds one of the biographies' own tags (TAG). Where the first does not and a later one does, nobody
    can tell what is meant, and it is an error, as is half a pair of tags. All stages decide so, by the file alone.
    """
    tagged = tags is True
    for number, (place, text) in enumerate(texts.read(path, column), start=1):
        if tags == "auto" and (found := TAG.search(text)) and not tagged:
            if number > 1:
                raise InputError(
                    f"{place} has {found[0]} and the first text has no such tag: tags=true takes tags off, "
                    "tags=false leaves them as a part of the text"
                )
            tagged = True
        if not tagged:
            yield text, None
            continue
        plain = strip_tags(text)
        # A variant of which every token was dropped is blank, but not empty.
        if not plain:
            raise InputError(f"{place} has an empty text")
        if unpaired := TAG.search(plain):
            hint = "; tags=false leaves tags as a part of the text" if tags == "auto" else ""
            raise InputError(f"{place} has {unpaired[0]} without its other half{hint}")
        yield plain, text


def read_texts(path: str | Path) -> Iterator[str]:
    """Yield the texts of a file of biographies, tags and all; raises InputError as `read` does."""
    return (tagged for _, tagged in read(path, tags=True))


def pairs_of_tags(tagged: str) -> list[tuple[re.Match, re.Match]]:
    """Each `<tag>` with its `</tag>`, from the first on; a tag ends the first of its name that is still open."""
    pairs = []
    still_open: dict[str, deque[re.Match]] = defaultdict(deque)
    for tag in ANY_TAG.finditer(tagged):
        is_end, name = tag.groups()
        if not is_end:
            still_open[name].append(tag)
        elif still_open[name]:
            pairs.append((still_open[name].popleft(), tag))
    return sorted(pairs, key=lambda pair: pair[0].start())


def strip_tags(tagged: str) -> str:
    """The text without its `<tag>` ... `</tag>` pairs; what lies between them stays, as do tags without a partner."""
    kept, end = [], 0
    for tag in sorted(itertools.chain(*pairs_of_tags(tagged)), key=re.Match.start):
        kept.append(tagged[end : tag.start()])
        end = tag.end()
    return "".join([*kept, tagged[end:]])


def field_spans(tagged: str) -> tuple[str, dict[str, tuple[int, int]]]:
    """The text without tags, and where in it each tag's content lies: {tag: (start, end)}, end exclusive.

    Of a tag that comes twice it is the first; of nested ones the outer.
    """
    pairs = pairs_of_tags(tagged)

    def place(index: int) -> int:
        return index - sum(tag.end() - tag.start() for tag in itertools.chain(*pairs) if tag.end() <= index)

    spans, outer_end = {}, 0
    for opening, closing in pairs:
        if opening.start() >= outer_end:
            outer_end = closing.end()
            if opening[2] not in spans:
                spans[opening[2]] = place(opening.end()), place(closing.start())
    return strip_tags(tagged), spans


def read_people(path: str | Path, asked: Iterable[str]) -> list[dict[str, str]]:
    """Each row's fields by tag, on one line each.

    Raises InputError that names a row that lacks `name` or a field that is asked about.
    """
    people = []
    for row, tagged in enumerate(read_texts(path), start=1):
        plain, spans = field_spans(tagged)
        person = {tag: texts.on_one_line(plain[start:end].strip()) for tag, (start, end) in spans.items()}
        lacking = [tag for tag in ("name", *asked) if not person.get(tag)]
        if lacking:
            raise InputError(f"{path}: row {row} has no <{lacking[0]}>, which the prompts ask for")
        people.append(person)
    return people
