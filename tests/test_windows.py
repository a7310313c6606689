"""Long texts in windows, against their definition written out: in which window a token is read and learnt, what stage 1
makes of it, and what it says of it."""

import json
import random

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from transformers import AutoModelForCausalLM

import save_attention
from tests import tiny
from tests.test_received_attention import RELATIVE, from_maps, maps_of
from utils import attention_dump, tokens, windows
from utils.contrast import contrast
from utils.errors import InputError
from utils.script import CONFIG_FOLDER
from utils.tokenizer import load_tokenizer
from utils.tokens import Encoded

TEXTS = [
    "<name>Ada King</name> studied at <university>Lyon</university>, worked at <company>Oslo Mills</company> for many "
    "years, and was born on <date>May 5, 1921</date> in <city>Łódź</city>, where nobody knew of her.",
    "<name>Bo</name> is in <city>Rome</city>.",
]


def places_of_windows(before: int, own: int, behind: int, window: int, stride: int) -> list[list[int]]:
    """Which ids each window is fed, of a text of so many special ids, own ones, and special ids behind them."""
    ids = list(range(before + own + behind))
    if len(ids) <= window:
        return [ids]
    special, text, at_end = ids[:before], ids[before : before + own], ids[before + own :]
    found, start = [], 0
    while True:
        part = text[start : start + window - before - behind]
        if part[-1] == text[-1]:
            return [*found, special + part + at_end]
        found.append(special + part)
        start += stride


def slow_choice(token: int, found: list[list[int]], most: str) -> int:
    """The number of the window in which most ids follow (or precede) the token; a tie would be an error."""
    count = {}
    for number, places in enumerate(found):
        if token in places:
            index = places.index(token)
            count[number] = len(places) - 1 - index if most == "following" else index
    best = [number for number in count if count[number] == max(count.values())]
    assert len(best) == 1
    return best[0]


def text_of(before: int, own: int, behind: int, without_characters: set[int]) -> Encoded:
    positions = np.array([before + token for token in range(own) if token not in without_characters], dtype=np.int64)
    offsets = np.stack([positions, positions + 1], axis=1).astype(np.int32)
    return Encoded(list(range(before + own + behind)), positions, offsets, np.zeros(len(positions), bool))


def test_each_token_is_read_where_most_follow_it_and_learnt_where_most_precede_it():
    draw = random.Random(0)
    short = whole = 0
    for _ in range(1000):
        before, own, behind = draw.randrange(3), draw.randrange(2, 40), draw.randrange(2)
        width = draw.randrange(2, 20)
        window, stride = before + width + behind, draw.randrange(1, width)
        # At its two ends a text has characters: what has none there counts as special.
        hollow = {token for token in range(1, own - 1) if draw.random() < 0.1}
        encoded_text = text_of(before, own, behind, hollow)
        found = windows.windows(encoded_text, window, stride)
        expected = places_of_windows(before, own, behind, window, stride)
        assert [fed_window.places.tolist() for fed_window in found] == expected
        short += len(expected) > 1 and len(expected[-1]) < window
        whole += len(expected) == 1
        read = [
            (number, fed_window.places[index]) for number, fed_window in enumerate(found) for index in fed_window.reads
        ]
        assert read == [(slow_choice(token, expected, "following"), token) for token in encoded_text.positions]
        learnt = [
            (number, fed_window.places[index]) for number, fed_window in enumerate(found) for index in fed_window.learns
        ]
        # A bos token before a later window is learnt no more than the first; an id behind the text comes once alone.
        behind_first = [token for token in encoded_text.input_ids[1:] if token >= before]
        assert learnt == [
            *((0, token) for token in range(1, before)),
            *((slow_choice(token, expected, "preceding"), token) for token in behind_first),
        ]
        # As many follow a token as the docstring says.
        for number, token in read:
            followers = len(expected[number]) - 1 - expected[number].index(token)
            assert followers >= min(width - stride, own - 1 - (token - before))
    assert short > 100 and whole > 100


def test_a_text_without_characters_is_cut_as_well():
    encoded_text = Encoded(list(range(7)), np.zeros(0, np.int64), np.zeros((0, 2), np.int32), np.zeros(0, bool))
    found = windows.windows(encoded_text, 4, 2)
    assert [fed_window.places.tolist() for fed_window in found] == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6]]
    assert not any(len(fed_window.reads) for fed_window in found)


@pytest.mark.parametrize("window", [2, 3])
def test_a_window_of_one_token_beside_special_ones_is_refused(window):
    encoded_text = text_of(1, 9, window - 2, set())
    with pytest.raises(InputError, match=f"^window={window}: {window - 1} of its tokens are special, and windows that"):
        windows.windows(encoded_text, window, 1)
    assert len(windows.windows(encoded_text, window + 1, 1)) == 8


@pytest.mark.parametrize(("window", "stride"), [(4, 3), (4, None), (5, 4)])
def test_windows_that_could_not_overlap_are_refused(window, stride):
    with pytest.raises(
        InputError, match="stride=.*: must be from 1 to below .*, the window of . tokens without special ones"
    ):
        windows.windows(text_of(1, 9, 1, set()), window, stride)


def test_the_window_is_the_models_context_unless_it_is_smaller():
    assert windows.size(None, 512, "m") == windows.size(512, 512, "m") == windows.size(512, None, "m") == 512
    assert windows.size(None, None, "m") is None
    with pytest.raises(InputError, match="^window=513: m takes at most 512 tokens$"):
        windows.size(513, 512, "m")


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_model):
    """Two models with one tokenizer, which feeds a bos token first, and one whose tokenizer does not."""
    folder = tmp_path_factory.mktemp("models")
    other = tiny.save(folder / "other", "llama", seed=1, max_position_embeddings=40)
    return {"bos": tiny_model, "other": other, "no bos": tiny.save(folder / "no_bos", "gemma3", adds_bos=False)}


@pytest.fixture
def save(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))

    def run(name: str = "dump", model: str = "bos", **keys) -> attention_dump.Dump:
        keys = {"model": models[model], "dataset": "texts.jsonl", "save_name": name, "dtype": "float32", **keys}
        with initialize_config_dir(str(CONFIG_FOLDER), version_base=None):
            config = compose("save_attention", [f"{key}={value}" for key, value in keys.items()])
        save_attention.main.__wrapped__(config)
        return attention_dump.read_dump(name)

    return run


@pytest.mark.parametrize(("include_self", "queries"), [(False, "following"), (True, "before_fields")])
@pytest.mark.parametrize(
    ("kind", "prepend_bos"), [("bos", "auto"), ("bos", False), ("no bos", "auto"), ("no bos", False)]
)
def test_the_dump_is_the_slow_definition(save, models, kind, prepend_bos, include_self, queries, capsys):
    window, stride = 17, 7
    keys = {"window": window, "stride": stride, "prepend_bos": prepend_bos, "include_self": include_self}
    dump = save(model=kind, queries=queries, **keys)
    assert (dump.settings["window"], dump.settings["stride"]) == (window, stride)
    assert "1 of 2 texts are longer than 17 tokens and were read in windows\n" in capsys.readouterr().out

    model = AutoModelForCausalLM.from_pretrained(models[kind], dtype=torch.float32)
    plain = [text.replace("<", "\0").replace(">", "\0").split("\0") for text in TEXTS]
    plain = ["".join(part for part in parts if part.strip("/") not in TAGS) for parts in plain]
    for tagged, text, row in zip(TEXTS, plain, dump.rows, strict=True):
        (encoded_text,) = tokens.encode(load_tokenizer(str(models[kind])), [text], prepend_bos)
        before = len(encoded_text.input_ids) - len(encoded_text.positions)
        assert before == (prepend_bos is not False)
        fed = places_of_windows(before, len(encoded_text.positions), 0, window, stride)
        counted = None
        if queries == "before_fields":
            starts = [len(strip(tagged[: tagged.index(f"<{tag}>")])) for tag in TAGS if f"<{tag}>" in tagged]
            ends = encoded_text.offsets[:, 1]
            counted = [before + max(np.flatnonzero(ends <= start)) for start in starts if (ends <= start).any()]
        received = []
        for places in fed:
            maps = maps_of(model, [encoded_text.input_ids[place] for place in places])
            among = counted and [places.index(place) for place in counted if place in places]
            received.append(from_maps(maps, include_self, among))
        expected = []
        for place in encoded_text.positions:
            number = slow_choice(place, fed, "following")
            expected.append(received[number][fed[number].index(place)])
        np.testing.assert_allclose(row.values, expected, rtol=RELATIVE, atol=1e-9)


TAGS = ["name", "university", "company", "date", "city"]


def strip(tagged: str) -> str:
    for tag in TAGS:
        tagged = tagged.replace(f"<{tag}>", "").replace(f"</{tag}>", "")
    return tagged


def test_a_text_beyond_the_context_is_read_in_windows_of_it(save, capsys):
    dump = save("context", model="other")
    assert "1 of 2 texts are longer than 40 tokens and were read in windows\n" in capsys.readouterr().out
    assert (dump.settings["window"], dump.settings["stride"]) == (40, 20)
    assert save(model="other", window=40, stride=20).values.tolist() == dump.values.tolist()
    with pytest.raises(InputError, match=r"^window=41: .*/other takes at most 40 tokens$"):
        save(model="other", window=41)


def test_a_window_that_cuts_no_text_changes_nothing(save, tmp_path, capsys):
    save()
    whole = (tmp_path / "dump.pkl").read_bytes()
    assert not {"window", "stride"} & save(window=300, stride=5).settings.keys()
    assert (tmp_path / "dump.pkl").read_bytes() == whole
    assert "windows" not in capsys.readouterr().out


def test_dumps_of_other_windows_are_not_contrasted(save):
    whole, cut = save("whole"), save("cut", window=40)
    for keys, message in (
        ({}, "window is None for .*tiny-llama and 40 for .*/other"),
        ({"window": 40, "stride": 5}, "stride is 5 for .*tiny-llama and 20 for .*/other"),
    ):
        with pytest.raises(InputError, match=f"made with different settings: ({message}|stride is None for .* and 20)"):
            contrast(save("first", **keys), save("second", model="other"))
    both = contrast(cut, save("second", model="other"))
    assert (both.settings["window"], both.settings["stride"]) == (40, 20)
    assert not np.allclose(whole.values, cut.values)


@pytest.mark.parametrize("stopped_after", [0, 2, 5])
def test_part_by_part_and_resumed_the_dump_is_the_same(save, tmp_path, monkeypatch, stopped_after):
    """One window a batch, so that no value depends on what it is padded to."""
    keys = {"window": 17, "stride": 7, "batch_tokens": 1}
    save(**keys)
    whole = (tmp_path / "dump.pkl").read_bytes()
    monkeypatch.setattr(save_attention, "CHUNK_CHARACTERS", 1)
    save(**keys)
    assert (tmp_path / "dump.pkl").read_bytes() == whole
    texts, calls = save_attention.Kept.add, []

    def counted(kept, content):
        texts(kept, content)
        calls.append(content)
        if len(calls) == stopped_after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(save_attention.Kept, "add", counted)
        if stopped_after:
            with pytest.raises(KeyboardInterrupt):
                save(**keys)
        before = len(calls)
        save(resume="true", **keys)
    assert (tmp_path / "dump.pkl").read_bytes() == whole
    numbers = [number for number, _ in calls]
    assert sorted(numbers) == list(range(len(numbers))) and len(numbers) > 5 and before == stopped_after
