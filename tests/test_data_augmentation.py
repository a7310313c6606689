"""Stage 3 as a whole: the file it writes, for both kinds of augmentation."""

import csv
import errno
import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import data_augmentation
from tests import tiny
from utils import artifacts, attention_dump, biography, dropout, tokens
from utils.attention_dump import Dump, Row, text_hash
from utils.errors import InputError
from utils.script import CONFIG_FOLDER
from utils.tokenizer import fingerprint, load_tokenizer

TEXTS = ['She said "no", twice.', "Zoë Müller 🙂 was born in Łódź.", "It ends <eos> here."]
RANDOM = {"augment_type": "random", "alpha": 0.5, "multiply": 4}
ATTENTION = {"augment_type": "attention", "alpha": 0.9, "beta": 0.5, "multiply": 4, "attn_weights": "weights"}


@pytest.fixture
def augment(tiny_model, tmp_path, monkeypatch):
    """Run the stage in tmp_path on TEXTS, one of them tagged; returns the rows of the file."""
    monkeypatch.chdir(tmp_path)
    with open("texts.csv", "w", newline="") as opened:
        csv.writer(opened).writerows([["text"], [TEXTS[0].replace("She", "<name>She</name>")], [TEXTS[1]], [TEXTS[2]]])

    def run(**keys) -> list[str]:
        keys = {"model": tiny_model, "dataset": "texts.csv", "save_name": "out", **keys}
        with initialize_config_dir(str(CONFIG_FOLDER), version_base=None):
            config = compose("data_augmentation", [f"{key}={value}" for key, value in keys.items()])
        data_augmentation.main.__wrapped__(config)
        with open("data_augmented/out.csv", newline="", encoding="utf-8") as opened:
            (header, *rows) = csv.reader(opened)
        assert header == ["text"]
        return [text for (text,) in rows]

    return run


def write_weights(tiny_model, **changes) -> list[tokens.Encoded]:
    """A dump `weights` in which a text's first token ranks first, and so on."""
    tokenizer = load_tokenizer(str(tiny_model))
    encoded = tokens.encode(tokenizer, TEXTS)
    rows = [
        Row(text_hash(text), -np.arange(len(encoded_text.offsets), dtype=np.float32), encoded_text.offsets)
        for text, encoded_text in zip(TEXTS, encoded, strict=True)
    ]
    attention_dump.write(Dump.of("m", changes.get("tokenizer", fingerprint(tokenizer)), {}, rows), "weights")
    return encoded


def is_variant(variant: str, text: str) -> bool:
    return len(variant) == len(text) and all(new in (" ", old) for new, old in zip(variant, text, strict=True))


def test_each_rows_variants_follow_each_other_in_the_datasets_order(augment):
    rows = augment(**RANDOM)
    assert len(rows) == 12
    for index, row in enumerate(rows):
        assert is_variant(row, TEXTS[index // 4])
    assert len(set(rows)) > 6


def test_the_seed_decides_the_file(augment):
    assert augment(**RANDOM) == augment(**RANDOM)
    assert augment(**RANDOM) != augment(**RANDOM, seed=2)


def test_a_long_file_is_read_in_chunks_whose_draws_differ(augment, monkeypatch, tmp_path):
    text = "The same words twice make different variants."
    (tmp_path / "same.csv").write_text("text\n" + f"{text}\n" * 4)
    # Chunks of as many texts: draws that began anew with each would be the same.
    monkeypatch.setattr(data_augmentation, "CHUNK_CHARACTERS", 2 * len(text))
    rows = augment(**{**RANDOM, "multiply": 20}, dataset="same.csv")
    assert all(is_variant(row, text) for row in rows)
    assert len({tuple(rows[begin : begin + 20]) for begin in range(0, 80, 20)}) == 4


def test_draws_depend_on_the_seed_and_on_what_is_read_with_a_text(augment, monkeypatch, tmp_path):
    rows = augment(**RANDOM)
    assert augment(**{**RANDOM, "multiply": 2}) == [row for number, row in enumerate(rows) if number % 4 < 2]
    # Of the same draws more stay.
    assert all(is_variant(row, more) for row, more in zip(rows, augment(**{**RANDOM, "alpha": 0.8}), strict=True))
    # Each text a part of its own.
    monkeypatch.setattr(data_augmentation, "CHUNK_CHARACTERS", 1)
    with open(tmp_path / "other.csv", "w", newline="") as opened:
        csv.writer(opened).writerows([["text"], ["Another text, of other tokens."], [TEXTS[1]], [TEXTS[2]]])
    assert augment(**RANDOM, dataset="other.csv")[4:] == augment(**RANDOM)[4:]


def test_alpha_keeps_under_random_and_drops_under_attention(augment, tiny_model):
    write_weights(tiny_model)
    assert set(augment(**{**RANDOM, "alpha": 1})) == set(TEXTS)
    assert set(augment(**{**ATTENTION, "alpha": 0})) == set(TEXTS)
    all_dropped = augment(**{**RANDOM, "alpha": 0})
    assert set("".join(all_dropped)) <= set(" ,.<eos>")


@pytest.mark.parametrize("chunk_characters", [1, 60, 10_000])
def test_the_weights_decide_which_tokens_stay(augment, tiny_model, monkeypatch, chunk_characters):
    """With beta this large and alpha=1 all but rank 0 is dropped, save commas, full stops and special tokens."""
    monkeypatch.setattr(data_augmentation, "CHUNK_CHARACTERS", chunk_characters)
    encoded = write_weights(tiny_model)
    rows = augment(**{**ATTENTION, "alpha": 1, "beta": 1000, "multiply": 1})
    for row, text, encoded_text in zip(rows, TEXTS, encoded, strict=True):
        start, end = encoded_text.offsets[0]
        assert row[start:end] == text[start:end]
        assert set(row[end:].replace("<eos>", "")) <= set(" ,.")


def test_a_special_token_that_the_text_spells_out_is_never_dropped(augment):
    assert all("<eos>" in row for row in augment(**{**RANDOM, "alpha": 0})[8:])


def test_the_untouched_text_once_more_and_blanks_collapsed(augment):
    rows = augment(**RANDOM, include_original="true", blank="collapse")
    assert rows[4::5] == TEXTS
    assert not any("  " in row for row in rows)
    assert [len(row) for row in rows] != [len(row) for row in augment(**RANDOM, include_original="true")]


def save_word_tokenizer(folder, texts: list[str]) -> str:
    """A tokenizer of words and marks that drops the spaces between them, as BERT's does."""
    made = Tokenizer(models.WordLevel())
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(texts, trainers.WordLevelTrainer(show_progress=False))
    PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(folder)
    (folder / "config.json").write_text("{}")
    return str(folder)


def words(text: str) -> list[str]:
    return [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text)]


@pytest.mark.parametrize("kind", ["with the space", "without it"])
def test_deleted_tokens_go_with_their_space(augment, tiny_model, tmp_path, kind):
    texts = [
        *TEXTS[:2],
        "山田太郎は京都大学で学んだ。 東京",
        "נולד בשנת 1952, בעיר חיפה.",
        "e\u0301te\u0301 in Go\u0308teborg",
    ]
    model = tiny_model if kind == "with the space" else save_word_tokenizer(tmp_path / "words", texts)
    with open(tmp_path / "more.csv", "w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([["text"], *([text] for text in texts)])
    keys = RANDOM | {"multiply": 50, "dataset": "more.csv", "model": model}
    blanked, deleted = augment(**keys), augment(**keys, blank="delete")
    record = json.loads((tmp_path / "data_augmented/out.json").read_text())
    assert record["tokens_dropped"] == pytest.approx(0.5, abs=0.1)
    before, after = ("".join("".join(rows).split()) for rows in (texts * 50, deleted))
    assert record["characters_blanked"] == pytest.approx(1 - len(after) / len(before))
    for number, (blank, closed) in enumerate(zip(blanked, deleted, strict=True)):
        # The same draws: the same characters, in the same order.
        assert "".join(closed.split()) == "".join(blank.split())
        assert "  " not in closed and (closed == " " or closed == closed.strip())
        if kind == "without it":  # where tokens are words, none run together
            assert set(words(closed)) <= set(words(texts[number // 50]))


def test_what_was_dropped_is_said_of_tokens_and_of_characters(augment, tmp_path, capsys):
    augment(**{**RANDOM, "alpha": 1})
    assert "12 rows of 3 texts; dropped: 0.0% of the tokens, 0.0% of the characters\n" in capsys.readouterr().out
    (tmp_path / "short.csv").write_text('text\n"Zz , Zz"\n')
    for blank in ("spaces", "delete", "collapse"):
        augment(
            **{**RANDOM, "alpha": 0},
            dataset="short.csv",
            blank=blank,
            model=save_word_tokenizer(tmp_path / "words", ["Zz ,"]),
        )
        # Two of three tokens, four of five characters: the comma stays.
        assert "dropped: 66.7% of the tokens, 80.0% of the characters\n" in capsys.readouterr().out


def test_by_percent_of_the_text(augment, tiny_model):
    """With a beta of 100 tokens' length the two units are the same in a text of 100 tokens, and in no other here."""
    encoded = write_weights(tiny_model)
    lengths = [len(encoded_text.offsets) for encoded_text in encoded]
    by_token = [augment(**ATTENTION | {"beta": 0.5 * 100 / length}) for length in lengths]
    by_percent = augment(**ATTENTION, rank_unit="percent")
    for number, rows in enumerate(by_token):
        own = slice(4 * number, 4 * number + 4)
        assert rows[own] == by_percent[own]
    assert by_percent != augment(**ATTENTION)


def test_weights_of_another_tokenizer_are_projected_with_a_notice(augment, tiny_model, capsys):
    write_weights(tiny_model)
    same = augment(**ATTENTION)
    assert "another tokenizer" not in capsys.readouterr().out
    write_weights(tiny_model, tokenizer="another")
    assert augment(**ATTENTION) == same
    assert "another tokenizer" in capsys.readouterr().out


def test_a_bare_list_is_taken_in_row_order_with_a_warning(augment, tiny_model, tmp_path, capsys):
    encoded = write_weights(tiny_model)
    same = augment(**ATTENTION)
    arrays = [-np.arange(len(encoded_text.offsets), dtype=np.float64) for encoded_text in encoded]
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps(arrays))
    assert augment(**ATTENTION) == same
    assert "read in row order" in capsys.readouterr().out


@pytest.mark.parametrize("blank", ["collapse", "delete"])
def test_variants_of_which_all_is_dropped_can_still_be_read(augment, tmp_path, blank):
    (tmp_path / "short.csv").write_text("text\nHello there\n")
    augment(**{**RANDOM, "alpha": 0}, dataset="short.csv", blank=blank)
    assert list(biography.read_texts(tmp_path / "data_augmented/out.csv")) == [" "] * 4
    # And varied once more, though nothing is left to drop.
    (tmp_path / "data_augmented/out.csv").rename(tmp_path / "blank.csv")
    assert augment(**RANDOM, dataset="blank.csv", blank=blank) == [" "] * 16
    assert json.loads((tmp_path / "data_augmented/out.json").read_text())["characters_blanked"] == 0


def test_bad_weights_leave_the_file_of_before(augment, tmp_path):
    before = augment(**RANDOM)
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps([np.zeros(3)] * 3))
    with pytest.raises(InputError, match="row 1 has 3 values"):
        augment(**ATTENTION)
    with open(tmp_path / "data_augmented/out.csv", newline="", encoding="utf-8") as opened:
        assert [text for (text,) in csv.reader(opened)][1:] == before
    assert sorted(path.name for path in (tmp_path / "data_augmented").iterdir()) == ["out.csv", "out.json"]


def test_a_folder_with_the_tokenizer_alone_serves(augment, tiny_model, tmp_path):
    load_tokenizer(str(tiny_model)).save_pretrained(tmp_path / "tokenizer")
    assert data_augmentation.RULES["model"](str(tmp_path / "tokenizer")) == str(tmp_path / "tokenizer")
    assert augment(model=tmp_path / "tokenizer", **RANDOM) == augment(**RANDOM)


@pytest.mark.parametrize("include_original", ["true", "false"])
def test_a_resumed_run_draws_what_was_not_drawn_and_its_file_is_the_same(
    augment, tiny_model, tmp_path, monkeypatch, capsys, include_original
):
    monkeypatch.setattr(data_augmentation, "CHUNK_CHARACTERS", 1)
    write_weights(tiny_model)
    keys = ATTENTION | {"include_original": include_original, "blank": "delete"}
    csv_file, record = tmp_path / "data_augmented/out.csv", tmp_path / "data_augmented/out.json"
    augment(**keys)
    unbroken, said = csv_file.read_bytes(), capsys.readouterr().out
    made = json.loads(record.read_text())
    assert made["sha256"] == hashlib.sha256(unbroken).hexdigest()
    unfinished = tmp_path / "data_augmented/.out.csv.kept/variants.csv"
    # Cut: rows that were written and not yet noted; and where the file is not what was noted.
    for stopped_at, spoil, drawn in ((0, b"", 3), (1, b"", 2), (2, b'"half a row', 1), (2, None, 3)):
        csv_file.write_bytes(b"earlier")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            count_variants(patch, stopped_at)
            augment(**keys)
        assert csv_file.read_bytes() == b"earlier"
        if spoil is None:
            unfinished.write_bytes(b"x" + unfinished.read_bytes()[1:])
        elif spoil:
            unfinished.write_bytes(unfinished.read_bytes() + spoil)
        with monkeypatch.context() as patch:
            calls = count_variants(patch, 9)
            augment(**keys, resume="true")
        assert (len(calls), csv_file.read_bytes()) == (drawn, unbroken)
        assert said.splitlines()[-2] == capsys.readouterr().out.splitlines()[-2]  # above the time it took
        again = json.loads(record.read_text())
        assert again.pop("config").pop("resume") and again == {key: made[key] for key in again}
        assert sorted(path.name for path in csv_file.parent.iterdir()) == ["out.csv", "out.json"]


def count_variants(patch, stopped_at: int) -> list:
    """Stop in the chunk of that number, from 0; returns the chunks that were drawn."""
    calls, variants = [], dropout.variants

    def counted(chunk, *arguments):
        if len(calls) == stopped_at:
            raise KeyboardInterrupt
        calls.append(chunk)
        return variants(chunk, *arguments)

    patch.setattr(dropout, "variants", counted)
    return calls


def test_where_the_record_cannot_be_written_what_was_drawn_is_kept(augment, tmp_path, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    whole = augment(**RANDOM)
    with monkeypatch.context() as patch, pytest.raises(InputError, match="what was computed is kept; resume=true"):
        patch.setattr(artifacts, "file_hash", full)
        augment(**RANDOM)
    with monkeypatch.context() as patch:
        calls = count_variants(patch, 9)
        assert augment(**RANDOM, resume="true") == whole
    assert not calls
    assert sorted(path.name for path in (tmp_path / "data_augmented").iterdir()) == ["out.csv", "out.json"]


def test_a_file_system_without_links_serves(augment, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    linked = augment(**RANDOM)
    monkeypatch.setattr(Path, "hardlink_to", refused)
    assert augment(**RANDOM) == linked
    assert sorted(path.name for path in (tmp_path / "data_augmented").iterdir()) == ["out.csv", "out.json"]


@pytest.mark.parametrize("other", ["settings", "texts", "weights", "tokenizer"])
def test_what_was_kept_of_something_else_is_not_used(augment, tiny_model, tmp_path, monkeypatch, capsys, other):
    monkeypatch.setattr(data_augmentation, "CHUNK_CHARACTERS", 1)
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    write_weights(tiny_model)
    keys = ATTENTION | {"model": model, "alpha": 0 if other == "texts" else 0.9}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        count_variants(patch, 1)
        augment(**keys)
    if other == "settings":
        keys["seed"] = 5
    elif other == "texts":
        path = tmp_path / "texts.csv"
        path.write_text(path.read_text().replace("Zoë", "Zoe"))
        monkeypatch.setattr(attention_dump, "check_texts", lambda dump, texts, *_: len(list(texts)))
    elif other == "weights":
        write_weights(tiny_model, tokenizer="another")
    else:
        tiny.tokenizer(vocabulary=400).save_pretrained(model)
    with monkeypatch.context() as patch:
        calls = count_variants(patch, 9)
        augment(**keys, resume="true")
    assert len(calls) == 3
    assert "resume: the kept work has different settings, texts, weights, versions or code" in capsys.readouterr().out


def test_a_second_run_of_a_name_is_refused(augment, tmp_path):
    path = tmp_path / "data_augmented/out.csv"
    with (
        artifacts.claimed("save_name", path),
        pytest.raises(InputError, match="^save_name: another run is writing data_augmented/out.csv;"),
    ):
        augment(**RANDOM)
    assert not path.parent.exists()
