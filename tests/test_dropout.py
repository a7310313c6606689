"""Token-dropout against the formula and a slow loop, its ends, and the frequencies with which tokens stay."""

import math
import re
import unicodedata

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


def variants(text: str, offsets, keep, count: int, generator, delete: bool = False) -> list[str]:
    """Of one text."""
    made, _ = dropout.variants([text], offsets, np.array([0, len(offsets)]), keep, count, generator, delete)
    return made


def ranks(weights: np.ndarray) -> np.ndarray:
    """Of one text."""
    return dropout.ranks(weights, np.array([0, len(weights)]))


def keep_by_rank(weights: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """Of one text."""
    return dropout.keep_by_rank(weights, np.array([0, len(weights)]), alpha, beta)


def one(text: str, words: list[str], keep, delete: bool = False) -> str:
    """A variant whose draws don't matter: each token's `keep` is 0 or 1."""
    (variant,) = variants(text, spans(words), np.asarray(keep, float), 1, np.random.default_rng(0), delete)
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


@pytest.mark.parametrize(("alpha", "beta"), [(0.7, 0.05), (0.3, 2.0), (1, 1), (0.7, 0)])
def test_by_percent_the_rank_is_its_share_of_the_text(alpha, beta):
    counts = [40, 1, 0, 100, 7]
    weights = np.random.default_rng(0).normal(size=sum(counts)).astype(np.float32)
    keep = dropout.keep_by_rank(weights, np.cumsum([0, *counts]), alpha, beta, "percent").tolist()
    weights_by_text = np.split(weights, np.cumsum(counts)[:-1])
    for text_weights in weights_by_text:
        for weight in text_weights:
            before = sum(other > weight for other in text_weights) / len(text_weights) * 100
            # A few float64 roundings of numbers up to 100, and beta.
            assert keep.pop(0) == pytest.approx(1 - alpha * (1 - math.exp(-beta * before)), rel=0, abs=1e-13)
    # In a text of 100 tokens a rank is a per cent.
    np.testing.assert_allclose(
        dropout.keep_by_rank(weights_by_text[3], np.array([0, 100]), alpha, beta, "percent"),
        keep_by_rank(weights_by_text[3], alpha, beta),
    )


@pytest.mark.parametrize("count", [1, 30, 5000])
def test_what_a_text_loses_by_token_nears_alpha_and_by_percent_does_not_depend_on_its_length(count):
    weights, bounds = np.arange(count, dtype=np.float32), np.array([0, count])
    by_token = 1 - dropout.keep_by_rank(weights, bounds, 0.7, 0.05).mean()
    shown = 0.7 * (1 - (1 - math.exp(-0.05 * count)) / (count * (1 - math.exp(-0.05))))
    assert by_token == pytest.approx(shown, abs=1e-12)
    by_percent = 1 - dropout.keep_by_rank(weights, bounds, 0.7, 0.05, "percent").mean()
    if count >= 30:  # the mean over 0 to 100 %, but for the steps of 100 / n
        assert by_percent == pytest.approx(0.7 * (1 - (1 - math.exp(-5)) / 5), abs=0.012)


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
    keep = [np.random.default_rng(len(text_offsets)).random(len(text_offsets)) for text_offsets in offsets]
    bounds = np.cumsum([0, *map(len, offsets)])
    laid = np.concatenate(offsets), bounds, np.concatenate(keep)
    made, dropped = dropout.variants(texts, *laid, 6, np.random.default_rng(4))
    deleted, as_many = dropout.variants(texts, *laid, 6, np.random.default_rng(4), delete=True)
    draws = np.random.default_rng(4).random((6, 15))
    first = gone = 0
    for index, (text, text_offsets, probability) in enumerate(zip(texts, offsets, keep, strict=True)):
        for number in range(6):
            characters, stays = list(text), []
            for (start, end), kept, draw in zip(text_offsets, probability, draws[number, first:], strict=False):
                stays.append(draw < kept or text[start:end].strip() in (",", "."))
                if not stays[-1]:
                    characters[start:end] = [" "] * (end - start)
            assert made[index * 6 + number] == "".join(characters)
            assert deleted[index * 6 + number] == slow_deletion(text, text_offsets, stays)
            gone += stays.count(False)
        first += len(text_offsets)
    assert dropped == as_many == gone


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


def slow_deletion(text: str, offsets: np.ndarray, stays: list[bool]) -> str:
    """Letter by letter: each that no dropped token covers, with the white space right before it; or with one where it
    would run into the word before."""
    gone = {place for (start, end), kept in zip(offsets, stays, strict=True) if not kept for place in range(start, end)}
    letters = [place for place, letter in enumerate(text) if not letter.isspace()]
    if not letters:
        return "".join(letter for place, letter in enumerate(text) if place not in gone) or " "
    made, last = "", None
    for place in letters:
        if place in gone:
            continue
        head = text[:place]
        space = head[len(head.rstrip()) :]
        between = [letter for letter in text[last:place] if letter.isspace()] if last is not None else []
        if last is None and letters[0] in gone:
            space = ""
        elif not space and between and is_of_word(text[last]) and is_of_word(text[place]):
            space = between[-1]
        made += space + text[place]
        last = place
    return made + text[letters[-1] + 1 :] * (letters[-1] not in gone) or " "


def is_of_word(letter: str) -> bool:
    return letter.isalnum() or unicodedata.combining(letter) > 0


# By kind of tokenizer: tokens that begin with their space, tokens without it, and spaces that are tokens by themselves.
CUTS = {
    "with the space": r"\s*\w{1,3}\u0301?|\s*[^\w\s]",
    "without it": r"\w{1,3}\u0301?|[^\w\s]",
    "by itself": r"\s|\w{1,3}\u0301?|[^\w\s]",
    "each character": r"[\s\S]",
    "words that end with it": r"\w+\s*|[^\w\s]+\s*",
}
ALPHABETS = {
    "ASCII": "Ada King was born on May 5, 1952.  Two spaces\tand a tab\nand a line. ",
    "accents": "Zoë Müller lives in Łódź, e\u0301tudie a\u0300 Go\u0308teborg.",
    "emoji": "👩\u200d🔬 Ada 🙂🙂 likes 🧪, 🇳🇴 and 👍🏽.",
    "CJK": "山田太郎は京都大学で物理学を学んだ。 李 小龍、1940年。\u3000東京",
    "right to left": "נולד בשנת 1952, בעיר חיפה. درس الفيزياء في جامعة القاهرة.",
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_what_remains_is_the_kept_tokens_characters_in_order(alphabet, cut):
    text = ALPHABETS[alphabet]
    offsets = np.array([found.span() for found in re.finditer(CUTS[cut], text)], dtype=np.int32).reshape(-1, 2)
    if alphabet == "emoji":  # as by bytes: each emoji has four tokens, any of which can go
        offsets = np.array([span for span in offsets for _ in range(4 if text[span[1] - 1] > "\uffff" else 1)])
    keep = np.random.default_rng(0).choice([0.2, 0.5, 0.9], len(offsets))
    draws = np.random.default_rng(1).random((200, len(offsets)))
    made = variants(text, offsets, keep, 200, np.random.default_rng(1), delete=True)
    for variant, draw in zip(made, draws, strict=True):
        tokens = [text[start:end] for start, end in offsets]
        stays = [
            rolled < kept or token.strip() in (",", ".") for token, rolled, kept in zip(tokens, draw, keep, strict=True)
        ]
        assert variant == slow_deletion(text, offsets, stays)
        if alphabet == "emoji":
            continue
        remaining = "".join(token for token, kept in zip(tokens, stays, strict=True) if kept)
        assert "".join(variant.split()) == "".join(remaining.split())
        # No second space where words close up: each that is left is the text's own.
        assert variant.count("  ") <= text.count("  ")
        assert variant[:1] == text[:1] or not variant[:1].isspace() or variant == " "


@pytest.mark.parametrize("cut", [r"\s*\S+", r"\S+", r"\s|\S+", r"\S+\s*"])
def test_words_neither_run_together_nor_lie_two_spaces_apart(cut):
    """Whole words, each a token: what is left is the kept words, a space between them, however the tokenizer cuts."""
    text = "One two three four five six"
    offsets = np.array([found.span() for found in re.finditer(cut, text)])
    for variant in variants(text, offsets, np.full(len(offsets), 0.5), 300, np.random.default_rng(0), delete=True):
        assert set(variant.split()) <= set(text.split())
        assert variant == (" ".join(variant.split()) or " ")


@pytest.mark.parametrize(
    ("words", "dropped", "left"),
    [
        (["Ada", " King", " was", " born", "."], [1, 2], "Ada born."),
        (["Ada", " King", " was", " born", "."], [0], "King was born."),
        (["Ada", " King", " was", " born", "."], [3], "Ada King was."),
        # The text's own two spaces stay, as long as what they stand before does.
        (["Ada", "  King", " was"], [0], "King was"),
        (["Ada", "  King", " was"], [2], "Ada  King"),
        (["Ada", "  King", " was"], [1], "Ada was"),
        # A space by itself goes or stays with what follows it, whatever becomes of its own token.
        (["on", " ", "19", "52", " she"], [1], "on 1952 she"),
        (["on", " ", "19", "52", " she"], [2, 3], "on she"),
        (["on", " ", "19", "52", " she"], [2], "on 52 she"),
        (["one", " ", "two", " ", "three"], [1, 2, 3], "one three"),
        # A word without its first token; two words, and the mark before the second goes.
        (["at", " Tul", "ane", " she"], [1], "at ane she"),
        (["at", " Tul", "ane", " she"], [2], "at Tul she"),
        (["said", ' "', "no", '"', "."], [1], 'said no".'),
        (["said", ' "', "no", '"', "."], [2], 'said "".'),
        (["said", ' "', "no", '"', "."], [1, 2], 'said".'),
        ([" at", " Tulane", ".\n"], [1], " at.\n"),
        ([" at", " Tulane", "\n"], [1], " at"),
        (["at"], [0], " "),
        # Of white space alone, which stands before nothing, each token decides for itself.
        ([" ", "\n", " "], [1], "  "),
        ([" ", "\n", " "], [0, 1, 2], " "),
    ],
)
def test_deletion_by_hand(words, dropped, left):
    keep = [token not in dropped for token in range(len(words))]
    assert one("".join(words), words, keep, delete=True) == left


def test_of_an_empty_text_one_space_is_left():
    assert variants("", np.zeros((0, 2), int), np.zeros(0), 1, np.random.default_rng(0), delete=True) == [" "]


def test_an_emoji_is_deleted_with_the_first_of_its_tokens_that_is_dropped():
    offsets = np.array([[0, 1], [1, 3], [1, 3], [3, 5]])
    for keep, left in (([1, 1, 0, 1], "a b"), ([1, 0, 1, 0], "a"), ([0, 1, 1, 1], "🙂 b")):
        assert variants("a 🙂 b", offsets, np.array(keep, float), 1, np.random.default_rng(0), delete=True) == [left]
