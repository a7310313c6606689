"""Print what a dump ranks highest and lowest in the first three texts.

python demo/ranked_tokens.py demo_out/attn_difference data/biography_synthetic.csv
"""

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import attention_dump, biography, dropout

TEXTS, TOKENS = 3, 10


def main(name: str, dataset: str) -> None:
    rows = attention_dump.read_dump(name).rows
    for row, tagged in zip(itertools.islice(rows, TEXTS), biography.read_texts(dataset), strict=False):
        text = biography.strip_tags(tagged)
        order = dropout.ranks(row.values).argsort()
        shown = [f"{text[slice(*row.offsets[token])].strip() or '␣'} ({row.values[token]:+.4f})" for token in order]
        print(f"\n{text}\n  highest: {' · '.join(shown[:TOKENS])}\n  lowest:  {' · '.join(shown[-TOKENS:])}")


if __name__ == "__main__":
    main(*sys.argv[1:])
