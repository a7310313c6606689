"""The controls of a table: weights for the same tokens as a difference has, but without its information, or with all.

    python workflow/control_weights.py shuffled|facts DIFFERENCE DATASET SEED OUTPUT

shuffled: each text's own values in random order. facts: what stands in a tag (the person's name and the facts about
them) ranks before everything else, each half in random order; so the paper's rule keeps as much of the facts as it can
at its rate of dropout. The ranks are the same 0 to n - 1 in any case, so these arms drop as many tokens as the
difference does.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from utils import attention_dump, biography
from utils.attention_dump import Dump, Row


def shuffled(row: Row, tagged: str, generator: np.random.Generator) -> np.ndarray:
    return generator.permutation(row.values)


def facts(row: Row, tagged: str, generator: np.random.Generator) -> np.ndarray:
    """float32 [n]: from 1 to 2 for a token that shares a character with a tagged span, below 1 for any other."""
    plain, spans = biography.field_spans(tagged)
    is_fact = np.zeros(len(plain), dtype=bool)
    for start, end in spans.values():
        is_fact[start:end] = True
    # The space before a word is part of its token.
    in_fact = np.array([is_fact[start:end].any() for start, end in row.offsets])
    return (in_fact + generator.random(len(row.values))).astype(np.float32)


def main(control: str, difference: str, dataset: str, seed: str, output: str) -> None:
    dump = attention_dump.read_dump(difference)
    texts = list(biography.read_texts(dataset))
    attention_dump.check_texts(dump, map(biography.strip_tags, texts), difference, dataset)
    generator = np.random.default_rng(int(seed))
    make = {"shuffled": shuffled, "facts": facts}[control]
    rows = [row._replace(values=make(row, tagged, generator)) for row, tagged in zip(dump.rows, texts, strict=True)]
    made = Dump.of(f"{control} {dump.model}", dump.tokenizer, dump.settings | {"control": control}, rows)
    attention_dump.write(made, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
