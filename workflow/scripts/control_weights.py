"""The controls of a table: weights for the same tokens as a difference has, but without its information, or with more
(rule control_weights).

shuffled: each text's own values in random order. facts: what stands in a tag (the person's name and the facts about
them) ranks before everything else, each half in random order; so the paper's rule keeps as much of the facts as it can
at its rate of dropout. name_first: the difference, but before everything else stands the person's name. The ranks are
the same 0 to n - 1 in any case, so these arms drop as many tokens as the difference does, but for the marks that always
stay.
"""

import numpy as np

from utils import attention_dump, biography
from utils.attention_dump import Dump, Row
from workflow.logs import logged


def shuffled(row: Row, tagged: str, generator: np.random.Generator) -> np.ndarray:
    return generator.permutation(row.values)


def facts(row: Row, tagged: str, generator: np.random.Generator) -> np.ndarray:
    """float32 [n]: from 1 to 2 for a token of a tagged span, below 1 for any other."""
    return (in_spans(row, tagged) + generator.random(len(row.values))).astype(np.float32)


def name_first(row: Row, tagged: str, generator: np.random.Generator) -> np.ndarray:
    return row.values + np.ptp(row.values) * 2 * in_spans(row, tagged, only="name")


def in_spans(row: Row, tagged: str, only: str | None = None) -> np.ndarray:
    """bool [n]: which tokens share a character with a tagged span, of any field or of one."""
    plain, spans = biography.field_spans(tagged)
    is_tagged = np.zeros(len(plain), dtype=bool)
    for field, (start, end) in spans.items():
        is_tagged[start:end] = only in (None, field)
    # The space before a word is part of its token.
    return np.array([is_tagged[start:end].any() for start, end in row.offsets])


def main(control: str, difference: str, dataset: str, seed: int, output: str) -> None:
    dump = attention_dump.read_dump(difference)
    texts = list(biography.read(dataset))
    attention_dump.check_texts(dump, (plain for plain, _ in texts), difference, dataset)
    generator = np.random.default_rng(seed)
    make = {"shuffled": shuffled, "facts": facts, "name_first": name_first}[control]
    rows = [
        row._replace(values=make(row, tagged or plain, generator))
        for row, (plain, tagged) in zip(dump.rows, texts, strict=True)
    ]
    made = Dump.of(f"{control} {dump.model}", dump.tokenizer, dump.settings | {"control": control}, rows)
    attention_dump.write(made, output)


if __name__ == "__main__":
    with logged(snakemake.log[0]):
        control, seed = snakemake.wildcards.control, int(snakemake.wildcards.seed)
        main(control, snakemake.input.difference, snakemake.params.dataset, seed, snakemake.output[0])
