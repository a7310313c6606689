"""What holds for any text, any weights, any alpha: hypothesis looks for a case in which it does not."""

import csv
import functools
import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import data_augmentation
import save_attention
from tests import tiny
from tests.test_determinism import run
from tests.test_received_attention import RELATIVE
from utils import attention_dump, biography, dropout, tokens
from utils.attention_dump import Dump, Row, text_hash
from utils.contrast import contrast
from utils.tokenizer import fingerprint

TAGS = ("name", "date", "city", "university", "major", "company")

PIECES = [
    *(" ", "  ", "\t", "\n", "\r\n", "\r", "\xa0", "\u3000", "\u200b", "\ufeff", "\0"),
    *(",", ".", ", ", ". ", "...", ".,", "\u3002", "\u3001", "\uff0c", "\uff0e", "\u2026"),
    *("Ada", " was born in ", "1952", '"', "<br>", "< b", "</i>", "<eos>"),
    # Combining marks: of letters, of a comma, in another order than NFC's; one whose NFC is longer; Hangul by parts.
    *("e\u0301", "\u0301", ",\u0301", "a\u0307\u0323", "\u0958", "\u1112\u1161\u11ab"),
    *("👩\u200d🔬", "🇳🇴", "👍🏽", "山田", "한국", "עברית", "العربية", "\ufdfa", "\u202e"),
]
# No lone surrogates: a file in UTF-8 has none. No pair of tags, and none of the biographies' own.
TEXTS = (
    st.lists(st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
    .map("".join)
    .filter(lambda text: biography.strip_tags(text) == text and not biography.TAG.search(text))
)

# A received attention: float32 down to the smallest, from equal ones to distinct ones.
VALUES = st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.25, 1.0])


def composing() -> PreTrainedTokenizerFast:
    """As Qwen's: what it composes has one place."""
    made = tiny.tokenizer(300)
    made.backend_tokenizer.normalizer = normalizers.NFC()
    return made


def dropping() -> PreTrainedTokenizerFast:
    """As BERT's: accents, control characters and spaces are in no token, and one token may be a whole word."""
    vocabulary = ["[UNK]", "<bos>", "<eos>", ",", ".", "a", "##a", "1", "##9", "##5", "##2", "ada", "山"]
    made = Tokenizer(models.WordPiece({token: number for number, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", bos_token="<bos>", eos_token="<eos>")


# Cut by bytes, most characters beyond ASCII are shared by several tokens.
TOKENIZERS = {"bytes": functools.partial(tiny.tokenizer, adds_bos=False), "composing": composing, "dropping": dropping}
each_tokenizer = pytest.mark.parametrize("kind", TOKENIZERS)


@functools.cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    return TOKENIZERS[kind]()


def write_texts(texts: list[str]) -> None:
    with open("texts.csv", "w", newline="", encoding="utf-8") as opened:
        csv.writer(opened, quoting=csv.QUOTE_ALL).writerows([["text"], *([text] for text in texts)])


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory):
    """All examples write into one folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("properties"))
        yield


def augmented(kind: str, texts: list[str], **keys) -> list[str]:
    write_texts(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_augmentation, "load_tokenizer", lambda *_: tokenizer(kind))
        run(data_augmentation, dataset="texts.csv", save_name="out", model=kind, **keys)
    with open("data_augmented/out.csv", newline="", encoding="utf-8") as opened:
        return [text for (text,) in csv.reader(opened)][1:]


def tagged(pieces: list[str], tags: list[str]) -> tuple[str, dict[str, tuple[int, int]]]:
    """Every second piece in a tag, as long as there are tags, and where these pieces lie in the text without."""
    text, spans, plain = "", {}, 0
    for number, piece in enumerate(pieces):
        tag = tags[number // 2] if number % 2 and number // 2 < len(tags) else None
        if tag:
            spans[tag] = plain, plain + len(piece)
        text += f"<{tag}>{piece}</{tag}>" if tag else piece
        plain += len(piece)
    return text, spans


@given(st.lists(st.just("") | TEXTS, max_size=13), st.permutations(TAGS))
def test_tags_are_removed_and_found_again(pieces, tags):
    plain = "".join(pieces)
    assume(biography.strip_tags(plain) == plain)  # of two pieces, a pair of tags
    text, spans = tagged(pieces, tags)
    assert biography.strip_tags(text) == plain
    assert biography.field_spans(text) == (plain, spans)


@each_tokenizer
@given(st.lists(TEXTS, min_size=1, max_size=3))
def test_offsets_lie_within_the_text_and_in_its_order(kind, texts):
    for text, encoded in zip(texts, tokens.encode(tokenizer(kind), texts), strict=True):
        last_start, last_end = 0, 0
        for start, end in encoded.offsets:
            assert last_start <= start < end <= len(text) and last_end <= end
            last_start, last_end = start, end
        assert len(encoded.offsets) == len(encoded.positions)
        assert (np.diff(encoded.positions) > 0).all()


@given(TEXTS)
def test_offsets_are_the_characters_of_each_tokens_bytes(text):
    (encoded,) = tokens.encode(tokenizer("bytes"), [text])
    character_of = [number for number, character in enumerate(text) for _ in character.encode()]
    at = 0
    for position, offsets in zip(encoded.positions, encoded.offsets, strict=True):
        # A byte-level token is written with one letter a byte.
        size = len(tokenizer("bytes").convert_ids_to_tokens(encoded.input_ids[position]))
        assert offsets.tolist() == [character_of[at], character_of[at + size - 1] + 1]
        at += size
    assert at == len(character_of)


def fixed(kind: str, text: str) -> set[int]:
    """The characters that no draw can take: those of special tokens, of tokens that say "," or ".", and of none."""
    (encoded,) = tokens.encode(tokenizer(kind), [text], "tokenizer")
    special = tokenizer(kind).all_special_ids
    takes = set()
    for position, (start, end) in zip(encoded.positions, encoded.offsets, strict=True):
        token = encoded.input_ids[position]
        if token not in special and tokenizer(kind).decode([token]).strip() not in (",", "."):
            takes.update(range(start, end))
    return set(range(len(text))) - takes


@each_tokenizer
@settings(max_examples=40)
@given(
    st.lists(TEXTS, min_size=1, max_size=3), st.sampled_from([0, 0.3, 0.9]), st.permutations(TAGS), st.integers(0, 99)
)
# Not NFC, and the tokenizer drops the last character: it must not go with the comma.
@example(["e\u0301,\0"], 0, TAGS, 0)
def test_a_variant_keeps_its_length_its_commas_and_full_stops(kind, texts, alpha, tags, seed):
    with_tags = [tagged(["", text], tags)[0] for text in texts]
    rows = augmented(kind, with_tags, augment_type="random", alpha=alpha, multiply=2, seed=seed)
    assert len(rows) == 2 * len(texts)
    for number, row in enumerate(rows):
        text = texts[number // 2]
        assert len(row) == len(text)
        assert all(new in (" ", old) for new, old in zip(row, text, strict=True))
        stay = fixed(kind, text)
        assert all(row[place] == text[place] for place in stay)
        if alpha == 0:
            assert row == "".join(letter if place in stay else " " for place, letter in enumerate(text))


@each_tokenizer
@settings(max_examples=25)
@given(st.lists(TEXTS, min_size=1, max_size=3), st.sampled_from(["spaces", "delete"]), st.data())
def test_alpha_0_changes_nothing(kind, texts, blank, data):
    encoded = tokens.encode(tokenizer(kind), texts)
    rows = [
        Row(text_hash(text), np.array(data.draw(values_of(encoded_text)), np.float32), encoded_text.offsets)
        for text, encoded_text in zip(texts, encoded, strict=True)
    ]
    attention_dump.write(Dump.of("m", fingerprint(tokenizer(kind)), {}, rows), "weights")
    beta = data.draw(st.floats(0, 1e300))
    guided = {"augment_type": "attention", "alpha": 0, "beta": beta, "attn_weights": "weights"}
    # Under random alpha has the opposite meaning.
    for keys in (guided, {"augment_type": "random", "alpha": 1}):
        made = augmented(kind, texts, multiply=2, blank=blank, **keys)
        assert made == [text for text in texts for _ in range(2)]


def values_of(encoded: tokens.Encoded):
    return st.lists(VALUES, min_size=len(encoded.offsets), max_size=len(encoded.offsets))


DRAWS = 1000


@each_tokenizer
@settings(max_examples=30)
@given(TEXTS, st.floats(0, 1), st.sampled_from([0.0, 0.05, 0.5, 1e6]), st.data())
def test_each_rank_is_dropped_as_often_as_the_formula_says(kind, text, alpha, beta, data):
    """A character that several tokens share stays if all of them do."""
    (encoded,) = tokens.encode(tokenizer(kind), [text])
    weights = data.draw(values_of(encoded))
    laid = encoded.offsets, np.array([0, len(weights)])
    keep = dropout.keep_by_rank(np.array(weights, np.float32), laid[1], alpha, beta)
    made, _ = dropout.variants([text], *laid, keep, DRAWS, np.random.default_rng(0))
    order = sorted(range(len(weights)), key=lambda token: -weights[token])
    stays = [1.0] * len(text)
    for token, (start, end) in enumerate(encoded.offsets):
        dropped = alpha * (1 - math.exp(-beta * order.index(token)))
        if text[start:end].strip() in (",", "."):
            dropped = 0
        for place in range(start, end):
            stays[place] *= 1 - dropped
    for place, letter in enumerate(text):
        if letter != " ":
            count = sum(variant[place] == letter for variant in made)
            # Exact: of some thousand characters, chance alone takes one beyond this in one of 100,000 runs.
            assert binomtest(count, DRAWS, stays[place]).pvalue > 1e-9


def dump_of(made: PreTrainedTokenizerFast, texts: list[str], draw) -> Dump:
    rows = []
    for text, encoded_text in zip(texts, tokens.encode(made, texts), strict=True):
        rows.append(Row(text_hash(text), np.array(draw(values_of(encoded_text)), np.float32), encoded_text.offsets))
    return Dump.of("m", fingerprint(made), {}, rows)


@pytest.mark.parametrize("operation", ["difference", "log_ratio"])
@pytest.mark.parametrize("other", TOKENIZERS)
@given(st.lists(TEXTS, min_size=1, max_size=3), st.data())
def test_a_dump_against_itself_is_zero_and_swapped_sides_turn_the_sign(operation, other, texts, data):
    large, small = (dump_of(tokenizer(kind), texts, data.draw) for kind in ("bytes", other))
    assert not contrast(large, large, operation).values.any()
    one, turned = contrast(large, small, operation, "small"), contrast(small, large, operation, "large")
    assert np.isfinite(one.values).all()
    assert one.values.tolist() == (-turned.values).tolist()
    assert one.offsets.tolist() == turned.offsets.tolist() == small.offsets.tolist()


@settings(max_examples=15)
@given(st.lists(TEXTS, min_size=2, max_size=6), st.integers(1, 300), st.randoms(use_true_random=False))
def test_a_dump_is_the_same_for_any_batch_size_and_order_of_rows(tiny_model, texts, batch_tokens, chance):
    order = chance.sample(range(len(texts)), len(texts))
    dumps = []
    # Each text by itself; then as many together as go into a batch.
    for rows, size in ((range(len(texts)), 1), (order, batch_tokens)):
        write_texts([texts[row] for row in rows])
        run(
            save_attention,
            model=str(tiny_model),
            dataset="texts.csv",
            save_name="dump",
            dtype="float32",
            batch_tokens=size,
        )
        dumps.append(attention_dump.read_dump("dump"))
    apart, together = dumps
    for place, row in enumerate(order):
        one, other = apart.rows[row], together.rows[place]
        assert one.text_sha256 == other.text_sha256 == text_hash(texts[row])
        assert one.offsets.tolist() == other.offsets.tolist()
        # float32 sums in another order, as of another shape.
        np.testing.assert_allclose(other.values, one.values, rtol=RELATIVE, atol=1e-9)
