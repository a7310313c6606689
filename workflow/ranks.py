"""Which tokens the token just before a field attends to most: what the paper's Figures 2 and 3 show, text by text.

One query of each text counts, the last token before the field. The tokens before that one are ranked: the query itself
is not among them, nor is a special token that is fed first, which has no characters in the text. Rank 1 has the largest
value; of equal values the earlier token comes first. A text with fewer than ten tokens before the query leaves its last
ranks empty.

What a token is called: the first field that it shares a character with, such as <name> (so the space before a word is
part of its field); in the text that was put first, that text; anywhere else the token's own characters without white
space at their ends, and ␣ if nothing is left.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from utils import attention_dump, biography
from utils.attention_dump import Dump, Row
from utils.contrast import contrast
from utils.errors import InputError
from workflow.intervals import RESAMPLES

# As the biographies have them.
FIELDS = ("date", "city", "university", "major", "company")

# What is put before each text.
CONDITIONS = {"plain": "", "text_first": "Text: "}

ATTENTIONS = ("small", "large", "difference")

RANKS = 10

COLUMNS = [f"rank_{rank}" for rank in range(1, RANKS + 1)]

# What is shown by itself in any case.
NAMED = [*(f"<{field}>" for field in ("name", *FIELDS)), *(text.strip() for text in CONDITIONS.values() if text)]

KEYS = ("large", "small", "dataset", "save_attention", "tables")
TABLE_KEYS = {"evaluation", "line"}


def check_figures(config: dict, results: Path) -> None:
    """Raise InputError if a key is missing or unknown, or if the results are of other settings."""
    if unlike := sorted(set(config) ^ set(KEYS)):
        raise InputError(f"the figures' keys are {', '.join(KEYS)}; unknown or missing: {', '.join(unlike)}")
    tables = config["tables"] or {}
    for table in tables:
        if not isinstance(tables, dict) or not isinstance(tables[table], dict) or set(tables[table]) != TABLE_KEYS:
            raise InputError(f"the figures' tables: {table} needs {' and '.join(sorted(TABLE_KEYS))}, and nothing else")
        if not Path(f"conf/tables/{table}.yaml").is_file():
            raise InputError(f"the figures' tables: no conf/tables/{table}.yaml")
    for condition in CONDITIONS:
        record = results / f"ranks_{condition}.json"
        if not record.exists():
            continue
        made_by = json.loads(record.read_text(encoding="utf-8"))["config"]
        for key in ("large", "small", "dataset", "save_attention"):
            if made_by[key] != config[key]:
                raise InputError(
                    f"{results}: made with a different {key}, {made_by[key]}; delete ranks_* there to redo them"
                )


def kinds(offsets: np.ndarray, plain: str, spans: dict[str, tuple[int, int]], prefix: str = "") -> list[str]:
    """What each token is called; the spans are those of the text's tags in the text's order."""

    def kind(start: int, end: int) -> str:
        for field, (first, last) in spans.items():
            if start < last and end > first:
                return f"<{field}>"
        if start < len(prefix):
            return prefix.strip()
        return plain[start:end].strip() or "␣"

    return [kind(int(start), int(end)) for start, end in offsets]


def ranked(row: Row, tagged: str, field: str, prefix: str = "") -> tuple[list[str], list[str]]:
    """What the tokens before the query are called, in the text's order; and the highest ten of them, highest first.

    The text is `prefix` and `tagged`, its tags left out; the row's values are of the query before `field`.
    """
    plain, spans = biography.field_spans(prefix + tagged)
    # As save_attention.py has it: the last token that ends where the field begins, or before. The others lie before it.
    before = np.flatnonzero(row.offsets[:, 1] <= spans[field][0])[:-1]
    called = kinds(row.offsets[before], plain, spans, prefix)
    highest = np.argsort(-row.values[before], kind="stable")[:RANKS]
    return called, [called[index] for index in highest]


def ranks(dataset: str, work: str, condition: str) -> list[dict]:
    """Of each attention, field and text: how many tokens are ranked, how many of these are the name's, and what holds
    each rank. The dumps are `work`/<size>_<condition>_<field>.pkl."""
    prefix = CONDITIONS[condition]
    texts = list(biography.read_texts(dataset))
    plain = [biography.strip_tags(prefix + tagged) for tagged in texts]
    rows = []
    for field in FIELDS:
        dumps = {}
        for size in ("small", "large"):
            name = f"{work}/{size}_{condition}_{field}"
            dumps[size] = attention_dump.read_dump(name)
            attention_dump.check_texts(dumps[size], plain, name, dataset)
            check_settings(dumps[size], name)
        dumps["difference"] = contrast(dumps["large"], dumps["small"])
        for attention in ATTENTIONS:
            for number, (row, tagged) in enumerate(zip(dumps[attention].rows, texts, strict=True), start=1):
                called, highest = ranked(row, tagged, field, prefix)
                counts = {"tokens": len(called), "of_name": called.count("<name>")}
                cells = dict(zip(COLUMNS, highest + [""] * (RANKS - len(highest)), strict=True))
                rows.append({"attention": attention, "field": field, "text": number, **counts, **cells})
    return rows


def check_settings(dump: Dump, name: str) -> None:
    if dump.settings.get("queries") != "before_fields" or dump.settings.get("include_self"):
        raise InputError(f"{name}.pkl: the figures need queries=before_fields and include_self=false")


def read_ranks(results: Path) -> pd.DataFrame:
    """What `ranks` found, of all conditions: the column `condition` and those of the files."""
    # A word may be null or None.
    read = {
        condition: pd.read_csv(
            results / f"ranks_{condition}.csv", keep_default_na=False, dtype=dict.fromkeys(COLUMNS, str)
        )
        for condition in CONDITIONS
    }
    return pd.concat(read, names=["condition", None]).reset_index("condition")


def words(found: pd.DataFrame, count: int) -> list[str]:
    """The words that hold the most of the first three places, fields and the text put first apart; of equally many by
    the alphabet."""
    places = pd.Series(found[COLUMNS[:3]].to_numpy().ravel()).value_counts()
    left = [(-number, word) for word, number in places.items() if word and word not in NAMED]
    return [word for _, word in sorted(left)[:count]]


def shares(found: pd.DataFrame, shown: list[str]) -> pd.DataFrame:
    """A row for each condition, attention, field, rank and thing (`what`): in what share of the texts, in per cent, it
    holds that rank.

    Words that are not `shown` are together `other words`. A rank that a text does not have is `no token`, so that the
    shares of a rank add up to 100.
    """
    keys = ["condition", "attention", "field"]
    long = found.melt([*keys, "text"], COLUMNS, "rank", "what")
    long["rank"] = long["rank"].str.removeprefix("rank_").astype(int)
    is_shown, is_none = long["what"].isin([*NAMED, *shown]), long["what"] == ""
    long["what"] = long["what"].where(is_shown, "other words").where(~is_none, "no token")
    orders = (CONDITIONS, ATTENTIONS, FIELDS, [*NAMED, *shown, "other words", "no token"])
    for key, order in zip([*keys, "what"], orders, strict=True):
        long[key] = pd.Categorical(long[key], list(order))
    counts = long.groupby([*keys, "rank", "what"], observed=True).size()
    share = 100 * counts / counts.groupby(level=[*keys, "rank"], observed=True).transform("sum")
    return share.rename("share").reset_index().astype(dict.fromkeys([*keys, "what"], str))


def top_three(found: pd.DataFrame) -> pd.DataFrame:
    """A row for each condition, field and attention: what share of the first three places, in per cent, the name's
    tokens hold, the mean over the texts with its 95 % interval (percentiles of a bootstrap over them).

    `random_order` is what it would be by chance: the mean share of the name's tokens among those that are ranked. A
    text with fewer than three tokens before the query counts with the places that it has, one with none is left out.
    """
    found = found[found["tokens"] > 0]
    rows = []
    for (condition, field, attention), group in found.groupby(["condition", "field", "attention"], sort=False):
        places = np.minimum(group["tokens"], 3)
        share = (100 * (group[COLUMNS[:3]] == "<name>").sum(axis=1) / places).to_numpy()
        low, high = interval(share)
        chance = (100 * group["of_name"] / group["tokens"]).mean()
        row = {"condition": condition, "field": field, "attention": attention, "places": int(places.sum())}
        rows.append(row | {"share": share.mean(), "low": low, "high": high, "random_order": chance})
    return pd.DataFrame(rows)


def interval(shares: np.ndarray) -> tuple[float, float]:
    drawn = np.random.default_rng(0).integers(len(shares), size=(RESAMPLES, len(shares)))
    low, high = np.percentile(shares[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
