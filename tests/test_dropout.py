"""Token-dropout against the formula and a slow loop, its ends, and the frequencies with which tokens stay."""

import math

import numpy as np
import pytest

from utils import dropout
from utils.dropout import collapse, keep_all_alike

TEXT = "Zoë O'Neil 🙂 was born in Łódź, Poland."
# Words with the space before them, as byte-level tokenizers cut them; "," and "." by themselves.
WORDS = ["Zoë", " O", "'Neil", " 🙂", " was", " born", " in", " Łódź", ",", " Poland", "."]


def spans(words: list[str]) -> np.ndarray:
    ends = np.cumsum([len(word) for word in words])
    return np.stack([ends - [len(word) for word in words], ends], axis=1)


def variants(text: str, offsets, keep, count: int, generator) -> list[str]:
    """Of one text."""
    return dropout.variants([text], offsets, np.array([0, len(offsets)]), keep, count, generator)


def ranks(weights: np.ndarray) -> np.ndarray:
    """Of one text."""
    return dropout.ranks(weights, np.array([0, len(weights)]))


def keep_by_rank(weights: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """Of one text."""
    return dropout.keep_by_rank(weights, np.array([0, len(weights)]), alpha, beta)


def one(text: str, words: list[str], keep) -> str:
    """A variant whose draws don't matter: each token's `keep` is 0 or 1."""
    (variant,) = variants(text, spans(words), np.asarray(keep, float), 1, np.random.default_rng(0))
    return variant


def kept_counts(keep: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """In how many of `draws` variants of TEXT each token stands untouched."""
    made = variants(TEXT, spans(WORDS), keep, draws, np.random.default_rng(seed))
    return np.array([sum(variant[start:end] == TEXT[start:end] for variant in made) for start, end in spans(WORDS)])


def assert_binomial(counts: np.ndarray, probability: np.ndarray, draws: int) -> None:
    """Within five standard deviations: chance alone goes beyond in fewer than one of a million."""
    deviation = np.sqrt(draws * probability * (1 - probability))
    assert (np.abs(counts - draws * probability) <= 5 * deviation).all(), counts / draws


def test_ranks_are_zero_for_the_largest_and_ties_go_by_the_text():
    assert ranks(np.array([0.1, 0.7, -0.2, 0.7, 0.0, 0.7])).tolist() == [3, 0, 5, 1, 4, 2]
    # Enough of them that an unstable sort would show.
    weights = np.random.default_rng(0).integers(0, 3, 500).astype(np.float32)
    by_weight = sorted(range(500), key=lambda token: (-weights[token], token))
    assert [by_weight[rank] for rank in ranks(weights)] == list(range(500))
    assert ranks(np.array([0.0, -0.0, 1e-40, -1e-40, 0.0], np.float32)).tolist() == [1, 2, 0, 4, 3]
    assert ranks(np.zeros(0, np.float32)).tolist() == []


def test_each_text_is_ranked_by_itself():
    weights = np.random.default_rng(1).integers(0, 9, 60).astype(np.float32)
    bounds = np.array([0, 7, 7, 14, 30, 53, 60])
    expected = [rank for start, end in zip(bounds, bounds[1:], strict=False) for rank in ranks(weights[start:end])]
    assert dropout.ranks(weights, bounds).tolist() == expected


@pytest.mark.parametrize(("alpha", "beta"), [(0.7, 0.05), (0.3, 2.0), (1, 1), (0, 0.05), (0.7, 0)])
def test_keep_by_rank_is_the_formula(alpha, beta):
    weights = np.random.default_rng(0).normal(size=40).astype(np.float32)
    keep = keep_by_rank(weights, alpha, beta)
    for weight, kept in zip(weights, keep, strict=True):
        rank = sum(other > weight for other in weights)
        # A few float64 roundings of numbers up to 1.
        assert kept == pytest.approx(1 - alpha * (1 - math.exp(-beta * rank)), rel=0, abs=1e-15)


@pytest.mark.parametrize(("alpha", "beta"), [(0, 5.0), (1, 0), (0, 0)])
def test_with_alpha_or_beta_zero_nothing_is_dropped(alpha, beta):
    keep = keep_by_rank(np.arange(len(WORDS)), alpha, beta)
    assert variants(TEXT, spans(WORDS), keep, 200, np.random.default_rng(0)) == [TEXT] * 200


def test_with_alpha_one_and_beta_large_only_rank_zero_and_punctuation_stay():
    weights = np.arange(len(WORDS)) * -1.0
    weights[9] = 1
    keep = keep_by_rank(weights, 1, 1e6)
    expected = "".join(word if word in (" Poland", ",", ".") else " " * len(word) for word in WORDS)
    assert set(variants(TEXT, spans(WORDS), keep, 200, np.random.default_rng(0))) == {expected}


@pytest.mark.parametrize(("alpha", "expected"), [(1, TEXT), (0, " " * 29 + "," + " " * 7 + ".")])
def test_ends_of_alpha_under_random(alpha, expected):
    assert one(TEXT, WORDS, keep_all_alike(len(WORDS), alpha)) == expected


def test_random_keeps_with_probability_alpha():
    counts = kept_counts(keep_all_alike(len(WORDS), 0.7), 4000, seed=1)
    assert_binomial(counts, np.array([1 if word in ",." else 0.7 for word in WORDS]), 4000)


def test_attention_drops_by_rank():
    weights = np.random.default_rng(2).normal(size=len(WORDS))
    counts = kept_counts(keep_by_rank(weights, 0.7, 0.3), 4000, seed=1)
    for word, weight, count in zip(WORDS, weights, counts, strict=True):
        rank = (weights > weight).sum()
        dropped = 0.0 if word in ",." else 0.7 * (1 - math.exp(-0.3 * rank))
        assert_binomial(count, 1 - dropped, 4000)
    assert counts[weights.argmax()] == 4000


def test_the_variants_of_a_text_are_independent():
    """Tokens, and neighbouring variants, stay together as often as two independent draws would."""
    made = variants(TEXT, spans(WORDS), keep_all_alike(len(WORDS), 0.7), 4000, np.random.default_rng(3))
    first, second = (np.array([variant[start] != " " for variant in made]) for start in (0, 6))
    both = np.array([(first & second).sum(), (first[1:] & first[:-1]).sum()])
    assert_binomial(both, np.array([0.49, 0.49]), 4000)


@pytest.mark.parametrize(
    ("word", "stays"),
    [
        (",", True),
        (".", True),
        (" ,", True),
        (" .", True),
        (".\n", True),
        ("...", False),
        (".,", False),
        (";", False),
        ("a.", False),
        ("", False),
    ],
)
def test_only_comma_and_full_stop_are_never_dropped(word, stays):
    expected = word if stays else " " * len(word)
    assert one(f"ab{word}cd", ["ab", word, "cd"], [0, 0, 0]) == f"  {expected}  "


@pytest.mark.parametrize("text", [TEXT, "👩‍🔬🙂 e\u0301a\u0308o, 東京. 𝔸𝔹", "tabs\tand\nlines"])
@pytest.mark.parametrize("seed", range(20))
def test_variants_agree_with_a_slow_loop(text, seed):
    """Random spans: gaps, overlaps (tokens that share an emoji), halves of combined letters, empty spans."""
    generator = np.random.default_rng(seed)
    offsets = np.sort(generator.integers(0, len(text) + 1, (generator.integers(0, 12), 2)), axis=1).astype(np.int32)
    keep = generator.random(len(offsets))
    draws = np.random.default_rng(seed).random((8, len(offsets)))
    made = variants(text, offsets, keep, 8, np.random.default_rng(seed))
    assert len(made) == 8
    for variant, draw in zip(made, draws, strict=True):
        characters = list(text)
        for token, (start, end) in enumerate(offsets):
            if draw[token] >= keep[token] and text[start:end].strip() not in (",", "."):
                characters[start:end] = [" "] * (end - start)
        assert variant == "".join(characters)
        assert len(variant) == len(text)


def test_many_texts_at_once_are_each_text_with_its_part_of_the_draws():
    texts = [TEXT, "", "🙂🙂", "no token at all", TEXT[:9]]
    offsets = [spans(WORDS), np.zeros((0, 2), int), spans(["🙂", "🙂"]), np.zeros((0, 2), int), spans(WORDS[:2])]
    keep = [np.random.default_rng(len(of_text)).random(len(of_text)) for of_text in offsets]
    bounds = np.cumsum([0, *map(len, offsets)])
    laid = np.concatenate(offsets), bounds, np.concatenate(keep)
    made = dropout.variants(texts, *laid, 6, np.random.default_rng(4))
    draws = np.random.default_rng(4).random((6, 15))
    first = 0
    for index, (text, of_text, probability) in enumerate(zip(texts, offsets, keep, strict=True)):
        for number in range(6):
            characters = list(text)
            for (start, end), kept, draw in zip(of_text, probability, draws[number, first:], strict=False):
                if draw >= kept and text[start:end].strip() not in (",", "."):
                    characters[start:end] = [" "] * (end - start)
            assert made[index * 6 + number] == "".join(characters)
        first += len(of_text)


def test_an_emoji_goes_with_the_first_of_its_tokens_that_is_dropped():
    offsets = np.array([[0, 1], [1, 2], [1, 2], [1, 2], [2, 3]])
    generator = np.random.default_rng(0)
    assert variants("a🙂b", offsets, np.array([1.0, 1, 0, 1, 1]), 1, generator) == ["a b"]
    assert variants("a🙂b", offsets, np.array([0.0, 1, 1, 1, 1]), 1, generator) == [" 🙂b"]


def test_whole_tokens_are_blanked_and_the_rest_is_untouched():
    keep = keep_all_alike(len(WORDS), 0.5)
    for variant in variants(TEXT, spans(WORDS), keep, 50, np.random.default_rng(0)):
        for start, end in spans(WORDS):
            assert variant[start:end] in (TEXT[start:end], " " * (end - start))


def test_the_seed_decides():
    def drawn(seed):
        return variants(TEXT, spans(WORDS), keep_all_alike(len(WORDS), 0.5), 10, np.random.default_rng(seed))

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert len(set(drawn(1))) > 5


@pytest.mark.parametrize(
    ("text", "collapsed"), [("a    b  c d", "a b c d"), ("   a   ", " a "), ("a \n  b", "a \n b"), ("a\n\nb", "a\n\nb")]
)
def test_collapse(text, collapsed):
    assert collapse(text) == collapsed
