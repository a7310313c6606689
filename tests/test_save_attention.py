"""Stage 1 as a whole: which tokens are queries, which layers are read, and what the dump says of both."""

import csv
import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from transformers import AutoModelForCausalLM

import save_attention
from tests import tiny
from tests.test_received_attention import RELATIVE, from_maps, maps_of
from utils import artifacts, attention_dump, biography, tokens
from utils.contrast import contrast
from utils.errors import InputError
from utils.received_attention import ReceivedAttention
from utils.script import CONFIG_FOLDER
from utils.tokenizer import load_tokenizer

TEXTS = [
    "<name>Ada King</name> studied at <university>Lyon</university>, and was born on <date>May 5</date>.",
    "<city>Oslo</city> is where <name>Bo Lind</name> lives.",
]


def encoded_by(pattern: str, text: str, adds_bos: bool = True) -> tokens.Encoded:
    offsets = np.array([found.span() for found in re.finditer(pattern, text)], dtype=np.int32)
    first = int(adds_bos)
    return tokens.Encoded(
        list(range(first + len(offsets))), np.arange(len(offsets)) + first, offsets, offsets[:, 0] < 0
    )


def queries_of(tagged: str, pattern: str, adds_bos: bool = True) -> list[str]:
    """The tokens that count as queries."""
    plain = biography.strip_tags(tagged)
    encoded = encoded_by(pattern, plain, adds_bos)
    (places,) = save_attention.before_fields([tagged], [encoded], "texts.csv")
    return [plain[start:end] for start, end in encoded.offsets[places - int(adds_bos)]]


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize(
    ("pattern", "before"),
    [
        # The space is part of the field's token; of no token; a token by itself, which is then what stands before.
        (r" ?\w+|[^\w\s]", [" at", " on"]),
        (r"\w+|[^\w\s]", ["at", "on"]),
        (r"\w+|[^\w\s]|\s", [" ", " "]),
        (r"\w", ["t", "n"]),
    ],
)
def test_the_token_that_stands_just_before_a_field(pattern, before, adds_bos):
    """Nothing stands before the name that begins the text: the special token that is fed first is no token of it."""
    assert queries_of(TEXTS[0], pattern, adds_bos) == before


@pytest.mark.parametrize(
    ("tagged", "before"),
    [
        (TEXTS[1], [" where"]),
        # Of a token that reaches into the field, the one before it; what lies in a field can stand before the next.
        ("at Uni<city>Lyon</city> she", ["at"]),
        ("<name>Ada</name> <city>Lyon</city>", ["Ada"]),
        ("in<city> Lyon</city>, <date>1952</date>", ["in", ","]),
        ("in <city>Lyon <date>1952</date></city>", ["in"]),
        ("in <city></city>", ["in"]),
    ],
)
def test_of_each_field_the_last_token_that_ends_before_it(tagged, before):
    assert queries_of(tagged, r" ?\w+|[^\w\s]") == before


@pytest.mark.parametrize("second", ["No tags at all.", "<name>Ada</name> alone", "1<city>2</city>"])
def test_a_text_without_a_field_that_something_stands_before_names_its_row(second):
    encoded = [encoded_by(r" ?\w+", biography.strip_tags(tagged)) for tagged in (TEXTS[0], second)]
    with pytest.raises(InputError, match="^texts.csv: row 2 has no tagged field with text before it"):
        save_attention.before_fields([TEXTS[0], second], encoded, "texts.csv")


@pytest.fixture
def save(tiny_model, tmp_path, monkeypatch):
    """Run the stage on TEXTS in tmp_path; returns the dump."""
    monkeypatch.chdir(tmp_path)
    with open("texts.csv", "w", newline="") as opened:
        csv.writer(opened).writerows([["text"], *([text] for text in TEXTS)])

    def run(name: str = "dump", **keys) -> attention_dump.Dump:
        keys = {"model": tiny_model, "dataset": "texts.csv", "save_name": name, "dtype": "float32", **keys}
        with initialize_config_dir(str(CONFIG_FOLDER), version_base=None):
            config = compose("save_attention", [f"{key}={value}" for key, value in keys.items()])
        save_attention.main.__wrapped__(config)
        return attention_dump.read_dump(name)

    return run


@pytest.mark.parametrize("layers", [None, [2, 0]])
@pytest.mark.parametrize("include_self", [False, True])
def test_the_dump_is_the_slow_definition_of_the_queries_before_fields(save, tiny_model, layers, include_self):
    keys = {"queries": "before_fields", "layers": str(layers or "null").replace(" ", ""), "include_self": include_self}
    dump = save(**keys)
    assert dump.settings["queries"] == "before_fields"
    assert dump.settings["layers"] == (layers and [0, 2])
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    plain = [biography.strip_tags(text) for text in TEXTS]
    encoded = tokens.encode(load_tokenizer(str(tiny_model)), plain)
    for row, text, encoded_text in zip(dump.rows, plain, encoded, strict=True):
        starts = [text.index(field) for field in ("Lyon", "May", "Bo") if field in text]
        queries = [max(i for i, (_, end) in enumerate(encoded_text.offsets) if end <= start) + 1 for start in starts]
        maps = maps_of(model, encoded_text.input_ids)[layers or slice(None)]
        expected = from_maps(maps, include_self, queries)[1:]
        np.testing.assert_allclose(row.values, expected, rtol=RELATIVE, atol=1e-9)
        # What follows the last of these tokens is looked at by none.
        assert not row.values[max(queries) :].any() and row.values[: max(queries) - 1].all()


def test_dumps_of_other_queries_or_layers_are_not_contrasted(save):
    dumps = [
        save(f"dump_{number}", **keys)
        for number, keys in enumerate(({}, {"queries": "before_fields"}, {"layers": "[1]"}))
    ]
    for other, message in ((dumps[1], "queries is following"), (dumps[2], "layers is None")):
        with pytest.raises(InputError, match=message):
            contrast(dumps[0], other)
    # As dumps were before these settings.
    old = dumps[0].settings.copy()
    for key in ("queries", "layers"):
        dumps[0].settings.pop(key)
    assert contrast(dumps[0], dumps[0]).settings == old | {"dtype": "float32, float32", "operation": "difference"}


def test_a_layer_beyond_the_models_is_refused_before_the_weights_are_read(save, tiny_model, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in Path(tiny_model).iterdir():
        if path.suffix == ".json":
            (bare / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"^layers=\[0, 3\]: the model has 3 layers, numbered from 0$"):
        save(model=bare, layers="[3,0]")
    with pytest.raises(InputError, match="cannot load the model"):
        save(model=bare, layers="[2,0]")


def test_of_a_hybrid_the_layers_that_attend_are_numbered(save, tmp_path):
    hybrid = tiny.save(tmp_path / "hybrid", "qwen3_5")
    assert save(model=hybrid, layers="[0]").values.tolist() == save(model=hybrid).values.tolist()
    with pytest.raises(InputError, match=r"^layers=\[1\]: 1 of the model's layers attend"):
        save(model=hybrid, layers="[1]")


@pytest.fixture
def interrupted(save, monkeypatch):
    """Run the stage as `save` does, one text a batch, stopped after so many batches; returns the batches it began."""

    def run(batches: int, **keys) -> list:
        begun = []
        texts = ReceivedAttention.texts

        def counted(receive, *arguments):
            begun.append(arguments)
            if len(begun) > batches:
                raise KeyboardInterrupt
            return texts(receive, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(ReceivedAttention, "texts", counted)
            try:
                save(batch_tokens=1, **keys)
            except KeyboardInterrupt:
                assert len(begun) == batches + 1
        return begun

    return run


def test_a_resumed_run_reads_what_was_not_read_and_its_dump_is_the_same(save, interrupted, tmp_path, monkeypatch):
    save(batch_tokens=1)
    unbroken = (tmp_path / "dump.pkl").read_bytes()
    assert json.loads((tmp_path / "dump.json").read_text())["sha256"] == hashlib.sha256(unbroken).hexdigest()
    (tmp_path / "dump.pkl").write_bytes(b"earlier")
    interrupted(1)
    assert (tmp_path / "dump.pkl").read_bytes() == b"earlier"
    assert len(interrupted(9, resume="true")) == 1
    assert (tmp_path / "dump.pkl").read_bytes() == unbroken
    # All was read, and then the disk was full.
    with monkeypatch.context() as patch:
        patch.setattr(attention_dump.Unfinished, "write", full)
        with pytest.raises(InputError, match="full; what was computed is kept; resume=true continues from there"):
            interrupted(9)
    assert not interrupted(9, resume="true")
    assert (tmp_path / "dump.pkl").read_bytes() == unbroken
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dump.json", "dump.pkl", "texts.csv"]


def full(*_):
    raise artifacts.NotWritten("dump.pkl: full")


@pytest.mark.parametrize("other", ["settings", "texts", "tags", "weights"])
def test_what_was_kept_of_something_else_is_not_used(interrupted, tiny_model, tmp_path, capsys, other):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    interrupted(1, model=model)
    keys = {"include_self": "true"} if other == "settings" else {}
    if other in ("texts", "tags"):
        path = tmp_path / "texts.csv"
        path.write_text(path.read_text().replace(*(("Oslo", "Rome") if other == "texts" else ("city>", "major>"))))
    elif other == "weights":
        tiny.save(model, "llama", seed=5)
    capsys.readouterr()
    assert len(interrupted(9, model=model, resume="true", **keys)) == 2
    assert "resume: the kept work has different settings, texts, weights, versions or code" in capsys.readouterr().out


def test_without_resume_all_is_read_anew(interrupted, tmp_path):
    interrupted(1)
    assert len(interrupted(9)) == 2


def test_a_second_run_of_a_name_is_refused_and_leaves_the_first_alone(save, tmp_path):
    with (
        artifacts.claimed("save_name", tmp_path / "dump.pkl") as folder,
        pytest.raises(InputError, match="^save_name: another run is writing dump.pkl;"),
    ):
        (folder / "0.jsonl").write_text("of the first")
        try:
            save()
        finally:
            assert (folder / "0.jsonl").read_text() == "of the first"
