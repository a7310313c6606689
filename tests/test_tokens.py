"""What a tokenizer adds, which characters each token covers, what identifies a tokenizer, how one is loaded."""

import json
import socket
import unicodedata

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from utils import model_source
from utils.adapters import adapter_base
from utils.errors import InputError
from utils.tokenizer import fed_around, fingerprint, load_tokenizer, pad_within
from utils.tokens import check_ids, encode, highest_id, with_marks

LANGUAGE = ["Ann Meier was born in Bonn, and Zoë in Zürich.", "They studied law and worked at a bank."] * 3
TEXTS = ["Ann was born in Bonn.", " Zoë 🙂!", "a  b\n\tc ", "e\u0301 👩‍🔬, 東京"]


def make(kind: str, language: list[str] = LANGUAGE) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer; `kind` is what it knows: "adds bos", "has bos", "has eos" or "has neither"."""
    names = {"adds bos": ["bos", "eos"], "has bos": ["bos", "eos"], "has eos": ["eos"], "has neither": []}[kind]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[f"<{name}>" for name in names],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(language, trainer)
    if kind == "adds bos":
        special = ("<bos>", trained.token_to_id("<bos>"))
        trained.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[special])
    return PreTrainedTokenizerFast(tokenizer_object=trained, **{f"{name}_token": f"<{name}>" for name in names})


@pytest.mark.parametrize(
    ("kind", "prepend_bos", "first"),
    [
        ("adds bos", "auto", "<bos>"),
        ("adds bos", True, "<bos>"),
        ("adds bos", False, None),
        ("adds bos", "tokenizer", "<bos>"),
        ("has bos", "auto", "<bos>"),
        ("has bos", True, "<bos>"),
        ("has bos", False, None),
        ("has bos", "tokenizer", None),
        ("has eos", "auto", "<eos>"),
        ("has eos", True, "<eos>"),
        ("has eos", "tokenizer", None),
        ("has neither", "auto", None),
        ("has neither", False, None),
        ("has neither", "tokenizer", None),
    ],
)
def test_what_is_fed_before_the_text(kind, prepend_bos, first):
    tokenizer = make(kind)
    before = [] if first is None else [tokenizer.convert_tokens_to_ids(first)]
    for text, encoded in zip(TEXTS, encode(tokenizer, TEXTS, prepend_bos), strict=True):
        text_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert encoded.input_ids == before + text_ids
        assert encoded.positions.tolist() == list(range(len(before), len(encoded.input_ids)))


def test_prepend_bos_without_any_token_to_prepend():
    with pytest.raises(InputError, match="prepend_bos"):
        encode(make("has neither"), TEXTS, True)


def test_another_special_token_first_is_no_bos():
    """As BERT's [CLS]: auto leaves it as the first, true puts the bos token before it."""
    tokenizer = make("has bos")
    eos = ("<eos>", tokenizer.eos_token_id)
    template = processors.TemplateProcessing(single="<eos> $A <eos>", special_tokens=[eos])
    tokenizer.backend_tokenizer.post_processor = template
    text_ids = tokenizer("Ann", add_special_tokens=False)["input_ids"]
    around = [tokenizer.eos_token_id, *text_ids, tokenizer.eos_token_id]
    (left_alone,) = encode(tokenizer, ["Ann"], "auto")
    (forced,) = encode(tokenizer, ["Ann"], True)
    assert left_alone.input_ids == around
    assert forced.input_ids == [tokenizer.bos_token_id, *around]
    for encoded in (left_alone, forced):
        assert [encoded.input_ids[position] for position in encoded.positions] == text_ids


@pytest.mark.parametrize("prepend_bos", ["auto", True, False, "tokenizer"])
@pytest.mark.parametrize("kind", ["adds bos", "has bos"])
def test_offsets_cover_each_text_exactly_and_hold_what_the_token_says(kind, prepend_bos):
    tokenizer = make(kind)
    for text, encoded in zip(TEXTS, encode(tokenizer, TEXTS, prepend_bos), strict=True):
        assert encoded.offsets.dtype == np.int32
        assert encoded.offsets.shape == (len(encoded.positions), 2)
        covered = {character for start, end in encoded.offsets for character in range(start, end)}
        assert covered == set(range(len(text)))
        for position, (start, end) in zip(encoded.positions, encoded.offsets, strict=True):
            said = tokenizer.decode([encoded.input_ids[position]])
            assert said == text[start:end] or "\ufffd" in said  # a part of a character


def test_the_tokens_of_an_emoji_share_its_character():
    (encoded,) = encode(make("adds bos"), ["a🙂b"])
    assert encoded.offsets.tolist() == [[0, 1], *[[1, 2]] * 4, [2, 3]]
    assert len(set(encoded.input_ids)) == 7


def test_trimmed_offsets_leave_no_token_without_characters():
    """GPT-2's own post-processor takes spaces off the offsets: a token of spaces alone then covers nothing."""
    tokenizer = make("has bos")
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    (encoded,) = encode(tokenizer, ["a   b"])
    assert encoded.offsets.tolist() == [[0, 1], [4, 5]]
    said = [tokenizer.decode([encoded.input_ids[position]]).strip() for position in encoded.positions]
    assert said == ["a", "b"]


def test_marks_belong_to_the_letter_that_the_tokenizer_makes_of_both():
    composing = make("has bos")
    composing.backend_tokenizer.normalizer = normalizers.NFC()
    text = unicodedata.normalize("NFD", "Nguyễn Thị Ánh, José Müller, 한국어.")
    (encoded_text,) = encode(composing, [text])
    covered = {place for start, end in encoded_text.offsets for place in range(start, end)}
    assert all(place in covered or character.isspace() for place, character in enumerate(text))
    # Letter by letter what the composed text's tokens cover.
    composed = unicodedata.normalize("NFC", text)
    (encoded_composed,) = encode(composing, [composed])
    pieces = [unicodedata.normalize("NFC", text[start:end]) for start, end in encoded_text.offsets]
    assert pieces == [composed[start:end] for start, end in encoded_composed.offsets]
    # Another tokenizer's text, whose marks are tokens of their own, stays as it is.
    (apart,) = encode(make("has bos"), [text])
    assert apart.offsets.tolist() == with_marks(text, apart.offsets).tolist()


def test_fingerprint_survives_saving(tmp_path):
    for kind in ("adds bos", "has bos", "has eos", "has neither"):
        tokenizer = make(kind)
        tokenizer.save_pretrained(tmp_path / kind)
        assert fingerprint(load_tokenizer(str(tmp_path / kind))) == fingerprint(tokenizer)


def test_fingerprint_is_of_the_rules_that_cut_a_text():
    tokenizer = make("has bos")
    expected = fingerprint(tokenizer)
    assert fingerprint(make("has bos")) == expected
    assert fingerprint(make("adds bos")) == expected
    assert fingerprint(make("has bos", ["Ganz andere Wörter kommen hier vor."])) != expected

    lower = make("has bos")
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    digits = make("has bos")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level])
    added = make("has bos")
    added.add_tokens(["Bonn"])
    chat = make("has bos")
    chat.add_special_tokens({"additional_special_tokens": ["<user>"]})
    assert len({expected, *map(fingerprint, (lower, digits, added))}) == 4
    assert fingerprint(chat) == expected


def test_encoding_and_padding_leave_the_fingerprint(tmp_path):
    tokenizer = make("adds bos")
    expected = fingerprint(tokenizer)
    tokenizer.pad_token = "<eos>"
    tokenizer(TEXTS, padding=True, truncation=True, max_length=5)
    assert fingerprint(tokenizer) == expected


@pytest.mark.parametrize("kind", ["adds bos", "has eos", "has neither"])
def test_a_loaded_tokenizer_can_pad_and_saving_it_again_changes_nothing(tmp_path, kind):
    """train.py saves the loaded tokenizer with each checkpoint, and evaluate.py loads it from there."""
    text = "Hello! Ann & Bob: 3 * 4"
    make(kind).save_pretrained(tmp_path / "base")
    loaded = load_tokenizer(str(tmp_path / "base"))
    assert (loaded.pad_token_id is None) == (kind == "has neither")
    loaded.save_pretrained(tmp_path / "checkpoint")
    again = load_tokenizer(str(tmp_path / "checkpoint"))
    ids = loaded(text)["input_ids"]
    assert again(text)["input_ids"] == ids
    assert again.decode(ids, skip_special_tokens=True) == loaded.decode(ids, skip_special_tokens=True) == text


def test_an_adapter_without_a_tokenizer_takes_its_base_models(tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tokenizer = make("has bos")
    tokenizer.save_pretrained(base)
    adapter.mkdir()
    assert adapter_base(str(adapter)) is None
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(base)}
    (adapter / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert adapter_base(str(adapter)) == str(base)
    assert adapter_base(str(base)) is None
    assert adapter_base("organisation/name") is None
    assert fingerprint(load_tokenizer(str(adapter))) == fingerprint(tokenizer)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "adapter_config.json").write_text("")
    with pytest.raises(InputError, match="half/adapter_config.json: damaged"):
        load_tokenizer(str(tmp_path / "half"))
    # One of its own comes first.
    own = make("has bos", ["Ganz andere Wörter kommen hier vor."])
    own.save_pretrained(adapter)
    assert fingerprint(load_tokenizer(str(adapter))) == fingerprint(own)


def test_a_slow_tokenizer_is_refused(tmp_path):
    ByT5Tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="offsets") as caught:
        load_tokenizer(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_a_tokenizer_that_is_not_there_is_named(tmp_path):
    make("has bos").save_pretrained(tmp_path / "damaged")
    (tmp_path / "damaged" / "tokenizer.json").write_text('{"version": "1.0"}')
    (tmp_path / "empty").mkdir()
    for name in (tmp_path / "missing", tmp_path / "empty", tmp_path / "damaged", "organisation/missing"):
        with pytest.raises(InputError, match=f"model={name}: cannot load the tokenizer"):
            load_tokenizer(str(name))


def test_whether_a_hub_answers(monkeypatch):
    answers = model_source._hub_answers.__wrapped__
    assert not answers()  # as conftest.py has it
    with socket.create_server(("127.0.0.1", 0)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.getsockname()[1]}")
        assert answers()
    assert not answers()
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert answers()


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [("http://mirror", 80), ("https://mirror/hub", 443), ("http://mirror:81", 81), ("http://m:x", None)],
)
def test_a_hub_is_asked_at_its_own_port(monkeypatch, endpoint, port):
    asked = []

    def connect(address, timeout):
        asked.append(address[1])
        raise OSError

    monkeypatch.setattr(model_source.socket, "create_connection", connect)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert not model_source._hub_answers.__wrapped__()
    assert asked == ([port] if port else [])


@pytest.mark.parametrize("there", [True, False])
def test_only_a_hub_that_answers_is_asked(monkeypatch, tmp_path, there):
    monkeypatch.setattr(model_source, "_hub_answers", lambda: there)
    named = {"pretrained_model_name_or_path": "organisation/name", "local_files_only": not there}
    assert model_source.source("organisation/name") == named
    assert model_source.source(str(tmp_path)) == {"pretrained_model_name_or_path": str(tmp_path)}


def test_an_id_that_the_model_does_not_know_is_named_by_its_row():
    encoded = encode(make("adds bos"), ["a", "a b c", "c b a"])
    ids = [max(encoded_text.input_ids) for encoded_text in encoded]
    assert ids[0] < ids[1] == ids[2]
    assert highest_id(encoded, 0) == (ids[1], 2) and highest_id(encoded[:1], 6) == (ids[0], 7)
    check_ids(encoded[1], ids[1] + 1, "data.csv: row 2")
    with pytest.raises(InputError, match=f"data.csv: row 2: token id {ids[1]} is out of range .* {ids[1]} rows"):
        check_ids(encoded[1], ids[1], "data.csv: row 2")


def test_padding_takes_a_token_that_the_model_has():
    """As of Llama 2 with an added [PAD] for which the embedding has no row."""
    tokenizer = make("has bos")
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    rows = tokenizer.pad_token_id
    pad_within(tokenizer, rows + 1)
    assert tokenizer.pad_token == "[PAD]"
    pad_within(tokenizer, rows)
    assert tokenizer.pad_token == tokenizer.bos_token
    pad_within(tokenizer, 0)
    assert tokenizer.pad_token is None


def test_merges_are_not_dropped_at_random(tmp_path):
    tokenizer = make("has bos")
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    saved = json.loads(path.read_text())
    saved["model"]["dropout"] = 0.5
    path.write_text(json.dumps(saved))
    loaded = load_tokenizer(str(tmp_path))
    expected = tokenizer(LANGUAGE[0])["input_ids"]
    assert all(loaded(LANGUAGE[0])["input_ids"] == expected for _ in range(20))
    assert fingerprint(loaded) == fingerprint(tokenizer)


def test_what_is_fed_around_a_text_is_known():
    """By the fingerprint they are one; a model is fed something else."""
    adds, has = make("adds bos"), make("has bos")
    assert fingerprint(adds) == fingerprint(has)
    assert fed_around(adds) == fed_around(make("adds bos")) != fed_around(has)
