"""Contrast of two dumps, projection between tokenizers against a slow loop over characters, weights for a text."""

import math
import tracemalloc

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

import contrast_attention
from utils.attention_dump import Dump, Row, read_dump, text_hash, write
from utils.contrast import combine, contrast, project, project_texts, weights_of
from utils.errors import InputError
from utils.script import CONFIG_FOLDER
from utils.spans import sums
from utils.tokens import Encoded

# Each value and each projection is rounded to float32 once, by at most half of this in relation to its size.
RELATIVE = 2.0**-23
# Sums in fixed point of up to some hundred numbers of at most 10, the last place of which is below 2^-62 of their sum;
# and the slow version's own sums in float64.
ABSOLUTE = 1e-11

OFFSETS = np.array([[0, 3], [3, 8], [8, 9]], np.int32)
OTHER_OFFSETS = np.array([[0, 4], [4, 9]], np.int32)
LARGE = np.array([0.3, 0.1, 0.0], np.float32)
SMALL = np.array([0.2, 0.7, 0.0], np.float32)


def make_dump(model, values, offsets=OFFSETS, tokenizer="tokenizer", hashes=("first", "second"), **settings) -> Dump:
    rows = [Row(text_sha256, np.asarray(values, np.float32), offsets) for text_sha256 in hashes]
    return Dump.of(model, tokenizer, {"include_self": False, "prepend_bos": True, "dtype": "float32"} | settings, rows)


def encode(offsets: np.ndarray) -> Encoded:
    """A text of these tokens, with a special token before and after them."""
    count = len(offsets)
    return Encoded(list(range(count + 2)), np.arange(1, count + 1), offsets, np.zeros(count, bool))


def random_spans(generator: np.random.Generator, length: int) -> np.ndarray:
    """Gaps, overlaps and empty spans all occur."""
    return np.sort(generator.integers(0, length + 1, (generator.integers(0, 20), 2)), axis=1).astype(np.int32)


def random_values(generator: np.random.Generator, count: int) -> np.ndarray:
    return (generator.normal(size=count) * 10.0 ** generator.uniform(-4, 0, count)).astype(np.float32)


def slow_project(values, offsets, target_offsets) -> list[float]:
    """A character has the mean of the tokens that cover it, a target token the mean of its characters."""
    means = {}
    for character in range(int(max([0, *offsets[:, 1]]))):
        laid = [float(value) for value, (start, end) in zip(values, offsets, strict=True) if start <= character < end]
        if laid:
            means[character] = sum(laid) / len(laid)
    projected = []
    for start, end in target_offsets:
        covered = [means[character] for character in range(start, end) if character in means]
        projected.append(sum(covered) / len(covered) if covered else 0.0)
    return projected


def test_difference_is_float32_subtraction_token_by_token():
    generator = np.random.default_rng(0)
    large, small = generator.random((2, 50)).astype(np.float32)
    offsets = np.stack([np.arange(50), np.arange(50) + 1], axis=1).astype(np.int32)
    made = contrast(make_dump("big", large, offsets), make_dump("little", small, offsets))
    assert made.tokenizer == "tokenizer"
    assert "big" in made.model and "little" in made.model
    assert made.settings["include_self"] is False and made.settings["operation"] == "difference"
    assert [row.text_sha256 for row in made.rows] == ["first", "second"]
    for row in made.rows:
        assert row.values.dtype == np.float32
        assert row.values.tolist() == [float(one - other) for one, other in zip(large, small, strict=True)]
        np.testing.assert_array_equal(row.offsets, offsets)


def test_the_dumps_themselves_stay_as_they_are():
    large, small = make_dump("big", LARGE), make_dump("little", SMALL)
    contrast(large, small)
    assert large.settings == small.settings == make_dump("", LARGE).settings
    np.testing.assert_array_equal(large.rows[0].values, LARGE)


@pytest.mark.parametrize(
    "changes",
    [
        {"hashes": ("first", "other")},
        {"hashes": ("second", "first")},
        {"hashes": ("first",)},
        {"hashes": ("first", "second", "third")},
        {"include_self": True},
        {"prepend_bos": False},
        {"only_here": 1},
        {"queries": "before_fields"},
        {"layers": [0, 1]},
        {"offsets": np.array([[0, 3], [3, 7], [7, 9]], np.int32)},
        {"offsets": OTHER_OFFSETS, "values": SMALL[:2]},
    ],
    ids=str,
)
def test_a_mismatch_names_both_models(changes):
    large, small = make_dump("big/one", LARGE), make_dump("little/one", **{"values": SMALL} | changes)
    for pair in ((large, small), (small, large)):
        with pytest.raises(InputError, match="big/one") as caught:
            contrast(*pair)
        assert "little/one" in str(caught.value)


def test_the_message_names_the_row_or_the_setting():
    with pytest.raises(InputError, match="row 2"):
        contrast(make_dump("big", LARGE), make_dump("little", SMALL, hashes=("first", "other")))
    with pytest.raises(InputError, match="include_self"):
        contrast(make_dump("big", LARGE), make_dump("little", SMALL, include_self=True))
    small = make_dump("little", SMALL)
    small.offsets[3:] = [[0, 3], [3, 7], [7, 9]]
    with pytest.raises(InputError, match="row 2 was tokenized differently"):
        contrast(make_dump("big", LARGE), small)


def test_a_message_is_one_short_line_whatever_the_dumps_say():
    large, small = make_dump("\x1b[2J" * 1000, LARGE), make_dump("two\nlines" * 1000, SMALL)
    others = [make_dump("m" * 10_000, SMALL, **{"\x1b" * 1000: ["\x07" * 1000] * 1000})]
    others += [make_dump("m\n", SMALL, hashes=("first",)), make_dump("m\n", SMALL, hashes=("first", "other"))]
    others += [make_dump("m\n" * 1000, SMALL[:2], OTHER_OFFSETS)]
    for pair in [(side, other) for side in (large, small) for other in others]:
        with pytest.raises(InputError) as caught:
            contrast(*pair)
        assert str(caught.value).isprintable() and len(str(caught.value)) <= 300


def test_a_dump_older_than_a_setting_is_of_its_default():
    old, new = make_dump("big", LARGE), make_dump("little", SMALL, queries="following", layers=None)
    for pair in ((old, new), (new, old)):
        settings = contrast(*pair).settings
        assert (settings["queries"], settings["layers"]) == ("following", None)
    with pytest.raises(InputError, match="queries is following for big and before_fields for little"):
        contrast(old, make_dump("little", SMALL, queries="before_fields", layers=None))
    with pytest.raises(InputError, match=r"layers is None for big and \[2\] for little"):
        contrast(old, make_dump("little", SMALL, queries="following", layers=[2]))


@pytest.mark.parametrize(
    ("large", "small", "kept"),
    [
        ({}, {"load_in_8bit": True}, [None, {"load_in_8bit": True}]),
        ({"load_in_8bit": True}, {}, [{"load_in_8bit": True}, None]),
        ({}, {}, None),
    ],
)
def test_quantization_may_differ_and_both_are_kept(large, small, kept):
    sides = [{"quant": quant} if quant else {} for quant in (large, small)]
    made = contrast(make_dump("big", LARGE, **sides[0]), make_dump("little", SMALL, **sides[1]))
    assert made.settings.get("quant") == kept


def test_dtypes_may_differ_and_both_are_kept():
    made = contrast(make_dump("big", LARGE, dtype="bfloat16"), make_dump("little", SMALL, dtype="float16"))
    assert "bfloat16" in made.settings["dtype"] and "float16" in made.settings["dtype"].replace("bfloat16", "")


def test_project_by_hand():
    """The text is `Ann🙂 ab`: the tokens are Ann, three that share the emoji, and ab; no token has the space."""
    offsets = np.array([[0, 3], [3, 4], [3, 4], [3, 4], [5, 7]])
    values = np.array([4, 1, 2, 6, 8], np.float32)
    targets = np.array([[0, 2], [2, 4], [4, 6], [6, 7], [4, 5], [7, 9], [0, 7]])
    assert project(values, offsets, targets).tolist() == [4, 3.5, 8, 8, 0, 0, np.float32(31 / 6)]


@pytest.mark.parametrize("seed", range(100))
def test_project_agrees_with_the_slow_definition(seed):
    """Random spans of both tokenizers, so gaps, overlaps, empty spans and targets that nothing covers all occur."""
    generator = np.random.default_rng(seed)
    length = generator.integers(1, 60)
    offsets, targets = random_spans(generator, length), random_spans(generator, length + 20)
    values = random_values(generator, len(offsets))
    projected = project(values, offsets, targets)
    assert projected.dtype == np.float32
    np.testing.assert_allclose(projected, slow_project(values, offsets, targets), rtol=RELATIVE, atol=ABSOLUTE)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-15, 1e30])
@pytest.mark.parametrize("offsets", [OFFSETS, np.array([[0, 5], [3, 8], [8, 9]])])
def test_project_takes_values_of_any_size(size, offsets):
    """Sums in fixed point neither overflow nor vanish."""
    values = np.array([1, -0.5, 0.25], np.float32) * np.float32(size)
    expected = slow_project(values, offsets, OTHER_OFFSETS)
    np.testing.assert_allclose(project(values, offsets, OTHER_OFFSETS), expected, rtol=RELATIVE, atol=0)


def test_sums_over_spans_are_exact():
    """As floats would not be."""
    found = sums(np.array([2**61, 1, -(2**61), 3]), np.array([[0, 1], [1, 2], [1, 4], [2, 2], [0, 4]]))
    assert found.tolist() == [2**61, 1, 4 - 2**61, 0, 4]


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_many_texts_at_once_are_projected_each_by_itself(monkeypatch, chunk, overlap):
    monkeypatch.setattr("utils.contrast.CHUNK", chunk)
    generator = np.random.default_rng(chunk)
    offsets = [random_spans(generator, 50) for _ in range(10)]
    if not overlap:  # in the order of the text, each span cut short where the next begins
        offsets = [np.sort(spans.ravel()).reshape(-1, 2) for spans in offsets]
    targets = [random_spans(generator, 60) for _ in range(10)]
    values = [random_values(generator, len(spans)) for spans in offsets]
    laid = [np.concatenate(values)]
    for side in (offsets, targets):
        laid += [np.concatenate(side), np.cumsum([0, *map(len, side)])]
    expected = [slow_project(*one) for one in zip(values, offsets, targets, strict=True)]
    np.testing.assert_allclose(project_texts(*laid), np.concatenate(expected), rtol=RELATIVE, atol=ABSOLUTE)


def test_project_from_no_tokens_gives_zeros():
    empty = np.zeros((0, 2), np.int32)
    assert project(np.zeros(0, np.float32), empty, OFFSETS).tolist() == [0, 0, 0]
    assert project(LARGE, OFFSETS, empty).tolist() == []


@pytest.mark.parametrize("offsets", [OFFSETS, np.array([[0, 2], [1, 3], [1, 3]])])
def test_equal_offsets_give_the_values_back(offsets):
    """Even where tokens overlap, and so would be averaged."""
    values = np.array([0.1, 0.7, 1e-30], np.float32)
    assert project(values, offsets, offsets.copy()).tolist() == values.tolist()


@pytest.mark.parametrize(("target", "offsets"), [("large", OFFSETS), ("small", OTHER_OFFSETS)])
def test_target_chooses_tokens_and_fingerprint(target, offsets):
    large = make_dump("big", LARGE, OFFSETS, "tokenizer of large")
    small = make_dump("little", SMALL[:2], OTHER_OFFSETS, "tokenizer of small")
    made = contrast(large, small, target=target)
    assert made.tokenizer == f"tokenizer of {target}"
    expected = np.subtract(slow_project(LARGE, OFFSETS, offsets), slow_project(SMALL[:2], OTHER_OFFSETS, offsets))
    for row in made.rows:
        np.testing.assert_array_equal(row.offsets, offsets)
        # Both projections are rounded to float32 before they are subtracted; none is above 1.
        np.testing.assert_allclose(row.values, expected, rtol=0, atol=2 * RELATIVE)


def test_target_changes_nothing_under_one_tokenizer():
    one, other = (
        contrast(make_dump("big", LARGE), make_dump("little", SMALL), target=side) for side in ("large", "small")
    )
    assert one.rows[0].values.tolist() == other.rows[0].values.tolist()
    assert one.tokenizer == other.tokenizer


def test_log_ratio():
    # The last quotient but one is beyond float32; that of neighbours vanishes in the difference of float32 logarithms.
    large = np.array([0.3, 0.1, 0.0, 0.2, 0.0, 1e-9, 1.0, np.nextafter(np.float32(0.01), np.float32(1))], np.float32)
    small = np.array([0.2, 0.7, 0.5, 0.0, 0.0, 1.0, 1e-45, 0.01], np.float32)
    ratios = combine(large, small, "log_ratio")
    assert ratios.dtype == np.float32
    for ratio, one, other in zip(ratios, large, small, strict=True):
        expected = math.log(float(one) / float(other)) if one and other else 0.0
        # Rounded to float32 once; before it, float64's rounding of logarithms up to some hundred.
        assert ratio == pytest.approx(expected, rel=RELATIVE, abs=1e-13)
    made = contrast(make_dump("big", large[:3]), make_dump("little", small[:3]), "log_ratio")
    assert made.rows[0].values.tolist() == ratios[:3].tolist()
    assert made.settings["operation"] == "log_ratio"


def test_weights_of_a_dump_are_those_of_the_rows():
    weights = make_dump("big", LARGE, hashes=("first", "second", "third"))
    for row, factor in enumerate((1, 2, 3)):
        weights.rows[row].values[:] = factor * SMALL
    assert weights_of(weights, 1, [encode(OFFSETS)]).tolist() == (2 * SMALL).tolist()
    assert weights_of(weights, 1, [encode(OFFSETS)] * 2).tolist() == [*(2 * SMALL), *(3 * SMALL)]


def test_weights_of_a_dump_of_another_tokenizer_are_projected():
    found = weights_of(make_dump("big", LARGE), 0, [encode(OTHER_OFFSETS)])
    np.testing.assert_allclose(found, slow_project(LARGE, OFFSETS, OTHER_OFFSETS), rtol=RELATIVE, atol=ABSOLUTE)


def test_weights_of_a_bare_list():
    """One value a token, or one an id with the tokenizer's own special tokens (here first and last)."""
    without, within = np.array([3, 2, 1], np.float32), np.array([9, 6, 5, 4, 8], np.float32)
    assert weights_of([within, without], 1, [encode(OFFSETS)]).tolist() == [3, 2, 1]
    assert weights_of([within, without], 0, [encode(OFFSETS)] * 2).tolist() == [6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("count", [0, 2, 4, 6])
def test_a_bare_list_of_another_length_names_the_row(count):
    weights = [np.zeros(3, np.float32), np.zeros(count, np.float32)]
    with pytest.raises(InputError, match=f"row 2 has {count} values"):
        weights_of(weights, 0, [encode(OFFSETS)] * 2)


def test_contrasting_two_files_takes_memory_for_the_result_alone(tmp_path):
    """Of 12 bytes a token in each file, and 4 in the result; numpy's arrays are counted, what is mapped is not."""
    texts, each = 2000, 500
    offsets = np.tile(np.stack([np.arange(each), np.arange(1, each + 1)], axis=1).astype(np.int32), (texts, 1))
    hashes = [text_hash(str(number)) for number in range(texts)]
    for number, name in enumerate(("large", "small")):
        values = np.full(texts * each, number, np.float32)
        write(Dump(name, "t", {}, hashes, np.arange(texts + 1) * each, values, offsets), str(tmp_path / name))
    del offsets, values
    tracemalloc.start()
    try:
        dumps = [read_dump(str(tmp_path / name)) for name in ("large", "small")]
        read = tracemalloc.get_traced_memory()[1]
        assert (contrast(*dumps).values == -1).all()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    tokens = texts * each
    # A piece of 2**17 tokens in some intermediate arrays, and 250 bytes for each text and dump.
    assert read < 6_000_000 < 12 * tokens
    assert peak < read + 4 * tokens + 6_000_000


def test_a_model_minus_itself_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, values in (("a", LARGE), ("b", LARGE), ("c", SMALL)):
        write(make_dump("M", values), name, {})
    for other, said in (("b", True), ("c", False)):
        with initialize_config_dir(str(CONFIG_FOLDER), version_base=None):
            keys = ["attn_dump_large=a", f"attn_dump_small={other}", "attn_diff=d"]
            contrast_attention.main.__wrapped__(compose("contrast_attention", keys))
        assert ("The values of both are the same" in capsys.readouterr().out) == said
