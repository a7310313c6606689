"""Print what a dump ranks highest and lowest in the first three texts, and how high it ranks each field.

python demo/ranked_tokens.py demo_out/attn_difference data/biography_synthetic.csv
"""

import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from utils import attention_dump, biography, dropout

TEXTS, TOKENS = 3, 10


def main(name: str, dataset: str) -> None:
    dump = attention_dump.read_dump(name)
    ranks = np.split(dropout.ranks(dump.values, dump.bounds), dump.bounds[1:-1])
    by_field = defaultdict(list)
    for number, (row, rank, tagged) in enumerate(zip(dump.rows, ranks, biography.read_texts(dataset), strict=True)):
        text, spans = biography.field_spans(tagged)
        if number < TEXTS:
            shown = [text[slice(*row.offsets[token])].replace(" ", "␣") for token in rank.argsort()]
            print(f"\n{text}\n  highest: {'  '.join(shown[:TOKENS])}\n  lowest:  {'  '.join(shown[-TOKENS:])}")
        for (start, end), relative_rank in zip(row.offsets, rank / max(1, len(rank) - 1), strict=True):
            fields = [field for field, (first, last) in spans.items() if end > first and start < last]
            by_field[fields[0] if fields else "(no field)"].append(relative_rank)
    print(f"\nMean rank of each field's tokens over {len(dump.rows)} texts, 0 the highest and 1 the lowest:")
    for field, field_ranks in sorted(by_field.items(), key=lambda item: sum(item[1]) / len(item[1])):
        print(f"  {field:<10} {sum(field_ranks) / len(field_ranks):.2f}  ({len(field_ranks)} tokens)")


if __name__ == "__main__":
    main(*sys.argv[1:])
