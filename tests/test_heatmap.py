"""Heat maps: what the page says of each character, the colours, how many texts there are, and all three stages' own."""

import csv
import importlib.util
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

import contrast_attention
import data_augmentation
import save_attention
from tests import tiny
from utils import attention_dump, biography, heatmap, tokens
from utils.errors import InputError
from utils.heatmap import LEVELS, Scale, Shaded
from utils.script import CONFIG_FOLDER
from utils.tokenizer import fingerprint, load_tokenizer

AWKWARD = "A <b>\"bold\"</b> & 'plain'\r\n\n\tword  שלום e\u0301te\u0301 👩‍👩‍👧 中文."


class Read(HTMLParser):
    """A page's texts as (text, class, the hover text) for each piece, its variants, its legend."""

    def __init__(self, page: str):
        super().__init__()
        self.texts, self.variants, self.legend = [], [], []
        self.paragraph = self.span = None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        assert tag not in ("script", "img", "link", "iframe")
        if tag == "p":
            self.paragraph = attributes.get("class")
            {"text": self.texts, "variant": self.variants}.get(self.paragraph, []).append([])
        elif tag == "span":
            self.span = attributes["class"], attributes.get("data-hover")

    def handle_endtag(self, tag):
        if tag == "span":
            self.span = None
        elif tag == "p":
            self.paragraph = None

    def handle_data(self, data):
        into = {"text": self.texts[-1:], "variant": self.variants[-1:], "legend": [self.legend]}.get(self.paragraph)
        for found in into or []:
            found.append((data, *(self.span or (None, None))))


def read(path: str | Path) -> Read:
    return Read(Path(path).read_text(encoding="utf-8"))


def joined(pieces: list) -> str:
    return "".join(piece for piece, *_ in pieces)


def shaded(text: str, spans: list, values: list | None = None) -> Shaded:
    offsets = np.array(spans, np.int32).reshape(-1, 2)
    token_values = np.array(range(1, len(spans) + 1) if values is None else values, np.float32)
    return Shaded(text, offsets, token_values, heatmap.ranks(token_values, np.array([0, len(token_values)])))


@st.composite
def cut_texts(draw):
    """A text and tokens in it, in order; gaps, overlaps and empty tokens all occur."""
    alphabet = st.one_of(st.sampled_from(" \t\n\re\u0301\u200d🙂<&'\"ש"), st.characters(exclude_characters="\0"))
    text = draw(st.text(alphabet, max_size=30))
    ends = st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))
    return text, sorted(tuple(sorted(span)) for span in draw(st.lists(ends, max_size=12)))


@given(cut_texts())
def test_the_page_is_the_text_again_and_tells_of_each_character_its_tokens(cut):
    text, spans = cut
    page = Read(heatmap.page("title", "1 of 1 texts", [shaded(text, spans)], Scale(1.0, False)))
    (pieces,) = page.texts or [[]]
    assert joined(pieces) == text
    place = 0
    for piece, _, hover in pieces:
        values = [] if hover is None else [float(value) for value in hover.split(" · ")[0].split(", ")]
        for character in range(place, place + len(piece)):
            covering = {number + 1.0 for number, (start, end) in enumerate(spans) if start <= character < end}
            assert covering <= set(values) and bool(covering) == bool(values)
        place += len(piece)


def test_values_ranks_and_shades_are_those_of_the_tokens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = shaded("ab cd, e", [(0, 2), (2, 5), (5, 6), (6, 8)], [0.125, -0.5, 0.0, 1.0])
    heatmap.write("page.html", "a - b", [one], 1, two_sided=True, end=1.0)
    assert read("page.html").texts == [
        [
            ("ab", "s1", "0.125 · rank 1"),
            (" cd", "d5", "-0.5 · rank 3"),
            (",", "s0", "0 · rank 2"),
            (" e", f"s{LEVELS}", "1 · rank 0"),
        ]
    ]
    heatmap.write("page.html", "a", [one._replace(ranks=None)], 1, end=1.0)
    # One-sided, there is nothing below 0.
    assert read("page.html").texts[0][1] == (" cd", "s0", "-0.5")


def test_a_letter_and_its_mark_are_one_piece_with_the_mean_of_their_tokens():
    spans = [(0, 1), (1, 2), (2, 3), (3, 4)]
    page = Read(heatmap.page("t", "", [shaded("e\u0301tx", spans, [1.0, 0.0, 0.5, 0.0])], Scale(1.0, False)))
    assert page.texts == [
        [("e\u0301", "s5", "1, 0 · rank 0, 2"), ("t", "s5", "0.5 · rank 1"), ("x", "s0", "0 · rank 3")]
    ]
    # A joiner ties the characters on both of its sides, and no others.
    page = Read(
        heatmap.page("t", "", [shaded("a👩\u200d👧b", [(place, place + 1) for place in range(5)])], Scale(5.0, False))
    )
    assert [piece for piece, *_ in page.texts[0]] == ["a", "👩\u200d👧", "b"]


def test_signs_show_white_space_and_are_no_part_of_the_text():
    page = heatmap.page("t", "", [shaded("a\n \tb c", [(0, 1), (1, 4), (4, 7)])], Scale(3.0, False))
    assert re.findall('data-sign="(.)"', page) == ["↵", "␣", "⇥"]
    assert joined(Read(page).texts[0]) == "a\n \tb c"


def test_nothing_in_a_title_a_text_or_a_variant_is_markup():
    one = shaded(AWKWARD, [(0, len(AWKWARD))])._replace(variants=["<script>alert(1)</script>"])
    page = heatmap.page("<script>&", "1 of 1 texts", [one], Scale(1.0, False))
    found = Read(page)  # no tag of its own
    assert joined(found.texts[0]) == AWKWARD
    assert joined(found.variants[0]) == "<script>alert(1)</script>"
    assert "http" not in page.replace("http-equiv", "") and "url(" not in page


def test_the_legend_has_a_number_for_every_second_shade():
    page = Read(heatmap.page("t", "", [], Scale(0.05, True)))
    assert page.legend[0][:2] == ("-0.05", f"d{LEVELS}") and page.legend[-1][:2] == ("0.05", f"s{LEVELS}")
    assert [float(number) for number, *_ in page.legend] == pytest.approx([0.01 * step for step in range(-5, 6)])


@given(st.lists(st.floats(-10, 10), min_size=1), st.floats(1e-6, 10), st.booleans())
def test_shades_rise_with_the_values(values, end, two_sided):
    levels = Scale(end, two_sided).levels(np.sort(values))
    assert (np.diff(levels) >= 0).all()
    for value, level in zip(np.sort(values), levels, strict=True):
        expected = max(-end if two_sided else 0, min(end, value)) / end * LEVELS
        assert abs(level - expected) <= 0.5 + 1e-9


@pytest.mark.parametrize("theme", heatmap.THEMES)
def test_shades_differ_in_grey_step_by_step_and_both_signs_alike(theme):
    def grey(level: int) -> float:
        """CIE's lightness L*, from 0 to 100."""
        luminance = heatmap.luminance(heatmap.colour(level, theme))
        return 116 * luminance ** (1 / 3) - 16 if luminance > 0.008856 else 903.3 * luminance

    deeper = -1 if theme == "light" else 1
    for sign in (1, -1):
        steps = [deeper * (grey(sign * (level + 1)) - grey(sign * level)) for level in range(LEVELS)]
        assert min(steps) > 3  # 2.3 is what an eye just notices
        assert max(steps) < 2 * min(steps)
    for level in range(1, LEVELS + 1):
        assert grey(level) == pytest.approx(grey(-level), abs=3)
        # Blue against orange, which no common colour blindness mixes up.
        red, _, blue = np.subtract(heatmap.colour(level, theme), heatmap.colour(-level, theme))
        assert red > 0 > blue


@pytest.mark.parametrize("theme", heatmap.THEMES)
def test_the_ink_is_readable_on_every_shade(theme):
    for level in range(-LEVELS, LEVELS + 1):
        paper = heatmap.luminance(heatmap.colour(level, theme))
        ink = {"#000000": 0.0, "#ffffff": 1.0}[heatmap.ink(heatmap.colour(level, theme))]
        assert (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05) >= 4.5


def test_the_scale_ends_where_few_values_lie_beyond(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    heatmap.write("page.html", "t", [shaded("x" * 100, [(i, i + 1) for i in range(100)], [0.01] * 99 + [9.0])], 1)
    pieces = read("page.html").texts[0]
    assert {shade for _, shade, _ in pieces} == {f"s{LEVELS}"} and read("page.html").legend[-1][0] == "0.01"
    # Nearly all 0: the largest is the end. All 0, or no token at all: any will do.
    for values, shades in (([0.0] * 99 + [9.0], {"s0", f"s{LEVELS}"}), ([0.0] * 100, {"s0"})):
        heatmap.write("page.html", "t", [shaded("x" * 100, [(i, i + 1) for i in range(100)], values)], 1)
        assert {shade for _, shade, _ in read("page.html").texts[0]} == shades
    heatmap.write("page.html", "t", [shaded("x", [])], 1)
    assert read("page.html").texts == [[("x", None, None)]]


@pytest.mark.parametrize(("path", "most"), [("page.html", 100), ("picture.png", 3)])
def test_of_many_texts_the_first_are_drawn_and_the_others_not_even_made(path, most, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = []

    def texts():
        for number in range(100_000):
            made.append(number)
            yield shaded(f"text {number}", [(0, 4)])

    heatmap.write(path, "t", texts(), 100_000)
    assert capsys.readouterr().out == f"{path}: {most} of 100,000 texts\n"
    assert len(made) <= most + 1
    if path == "page.html":
        assert [joined(text) for text in read(path).texts] == [f"text {number}" for number in range(100)]


def test_a_long_text_is_cut_and_keeps_its_ranks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(heatmap, "MOST", {".html": (100, 10)})
    # The third token lies across the end.
    one = shaded("abcd" * 100, [(0, 4), (4, 8), (8, 12), (12, 16)], [0, 1, 2, 3])._replace(variants=["v" * 400])
    heatmap.write("page.html", "t", [one, one], 2)
    assert capsys.readouterr().out == "page.html: 1 of 2 texts, cut after 10 characters\n"
    found = read("page.html")
    assert [(piece, hover) for piece, _, hover in found.texts[0]] == [
        ("abcd", "0 · rank 3"),
        ("abcd", "1 · rank 2"),
        ("ab", None),
    ]
    assert joined(found.variants[0]) == "v" * 10


@given(cut_texts())
def test_the_lines_of_a_picture_hold_the_text_and_fit(cut):
    text, spans = cut
    lines = list(heatmap.lines_of(shaded(4 * text, spans), Scale(1.0, True)))
    drawn = "".join(letter for line in lines for letter, *_ in line)
    hidden = {sign: letter for letter, sign in heatmap.VISIBLE.items()}
    assert "".join(hidden.get(letter, letter) for letter in drawn) == "".join(
        hidden.get(letter, letter) for letter in 4 * text
    )
    assert all(sum(width for _, width, *_ in line) <= heatmap.COLUMNS for line in lines)


def test_a_long_line_ends_after_white_space():
    words = "word " * 40
    lines = ["".join(letter for letter, *_ in line) for line in heatmap.lines_of(shaded(words, []), Scale(1.0, False))]
    assert lines == ["word " * 17, "word " * 17, "word " * 6]


def test_a_picture_has_the_shades_of_its_tokens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = shaded("abc $x^2$ 🙂 中", [(0, 3), (3, 4), (4, 9)], [1.0, 0.0, -0.7])
    heatmap.write("picture.png", "a_b - $c", [one], 1, two_sided=True, end=1.0)
    picture = imread("picture.png")[:, :, :3]
    text = picture[picture.shape[0] * 4 // 6 :]  # below the legend
    for level, there in ((LEVELS, True), (-7, True), (5, False)):
        near = np.abs(text - np.array(heatmap.colour(level, "light"))).max(axis=2) < 1 / 128
        assert (near.sum() > 500) == there


def test_a_picture_is_written_piece_by_piece_in_ink_that_is_readable(tmp_path, monkeypatch):
    figures = []

    def saved(figure, path, **_):
        figures.append(figure)
        Path(path).touch()

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", saved)
    one = shaded("abc $x^2$ 中.", [(0, 3), (3, 4), (4, 9)], [1.0, 0.0, -0.7])
    heatmap.write(str(tmp_path / "picture.png"), "a - b", [one], 1, two_sided=True, end=1.0)
    (panel,) = figures[0].axes
    assert not any(written.get_parse_math() for written in panel.texts)
    pieces = [(0, "abc", LEVELS), (3, "␣", 0), (4, "$x^2$", -7), (9, " 中.", 0)]
    expected = [(column, piece, heatmap.ink(heatmap.colour(level, "light"))) for column, piece, level in pieces]
    first_line = [written for written in panel.texts if written.get_position()[1] == 4]
    assert [(one.get_position()[0], one.get_text(), one.get_color()) for one in first_line] == expected
    boxes = [patch for patch in panel.patches if patch.get_y() < 4 < patch.get_y() + patch.get_height()]
    # Tokens alone have a box.
    assert [(box.get_x(), box.get_width()) for box in boxes] == [(0, 3), (3, 1), (4, 5)]
    shades = [(*heatmap.colour(level, "light"), 1.0) for _, _, level in pieces[:3]]
    assert [box.get_facecolor() for box in boxes] == [pytest.approx(shade) for shade in shades]


def test_what_a_picture_lacks_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    heatmap.check("new/page.html", "texts.csv")
    assert not Path("new").exists()
    with pytest.raises(InputError, match="^heatmap: file/page.html can't be written: Not a directory"):
        heatmap.check("file/page.html", None)
    with pytest.raises(InputError, match="^heatmap: it would overwrite texts.html, which dataset=... reads"):
        heatmap.check("./texts.html", "texts.html")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    heatmap.check("page.html", None)
    with pytest.raises(InputError, match="^heatmap=page.png: pip install matplotlib first"):
        heatmap.check("page.png", None)


# The stages

TEXTS = ["<name>Ada King</name> was born on May 5, 1920.", AWKWARD.replace("</b>", "").replace("<b>", ""), "Bo."]


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Run a stage in tmp_path, where TEXTS are texts.csv."""
    monkeypatch.chdir(tmp_path)
    with open("texts.csv", "w", newline="", encoding="utf-8") as opened:
        csv.writer(opened, quoting=csv.QUOTE_ALL).writerows([["text"], *([text] for text in TEXTS)])

    def run(script, **keys) -> None:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base=None):
            config = compose(script.__name__, [f"{key}={value}" for key, value in keys.items()])
        script.main.__wrapped__(config)

    return run


def check_page(path: str, dump: attention_dump.Dump) -> None:
    """The page is the texts again, and tells each token's value and rank as the dump has them."""
    plain = list(map(biography.strip_tags, TEXTS))
    found = read(path)
    assert [joined(text) for text in found.texts] == plain
    for pieces, row in zip(found.texts, dump.rows, strict=True):
        hover = [hover.split(" · rank ") for *_, hover in pieces if hover]
        values, ranks = ([number for part in side for number in part.split(", ")] for side in zip(*hover, strict=True))
        assert values == [f"{value:.3g}" for value in row.values]
        descending = sorted(range(len(row.values)), key=lambda token: (-row.values[token], token))
        assert [descending[int(rank)] for rank in ranks] == list(range(len(row.values)))


def test_stages_1_and_2_draw_their_dumps(stage, tiny_model, tmp_path, capsys):
    large = tiny.save(tmp_path / "large", "gemma3", seed=1, vocabulary=400)
    for name, model in (("small", tiny_model), ("large", large)):
        stage(save_attention, model=model, dataset="texts.csv", save_name=name, dtype="float32", heatmap=f"{name}.html")
        check_page(f"{name}.html", attention_dump.read_dump(name))
        assert f"{name}.html: 3 of 3 texts\n" in capsys.readouterr().out
    dumps = {"attn_dump_large": "large", "attn_dump_small": "small", "attn_diff": "difference"}
    stage(contrast_attention, **dumps, dataset="texts.csv", heatmap="maps/difference.html")
    difference = attention_dump.read_dump("difference")
    check_page("maps/difference.html", difference)
    shades = {shade[0] for text in read("maps/difference.html").texts for _, shade, _ in text if shade}
    assert shades == {"s", "d"}
    for row, pieces in zip(difference.rows, read("maps/difference.html").texts, strict=True):
        for _, shade, hover in pieces:
            if hover and "," not in hover:
                value = float(hover.split(" · ")[0])
                assert shade == "s0" or (shade[0] == "s") == (value > 0)
        assert len(row.values)
    stage(contrast_attention, **dumps, dataset="texts.csv", heatmap="difference.png")
    assert imread("difference.png").shape[1] > 1000


def test_stage_2_draws_no_other_texts(stage, tiny_model):
    stage(save_attention, model=tiny_model, dataset="texts.csv", save_name="a", dtype="float32")
    stage(save_attention, model=tiny_model, dataset="texts.csv", save_name="b", dtype="float32")
    Path("other.csv").write_text("text\nOther.\nTexts.\nHere.\n")
    dumps = {"attn_dump_large": "a", "attn_dump_small": "b", "attn_diff": "c"}
    with pytest.raises(InputError, match="^a.pkl was made from different texts: row 1 of other.csv is not its row 1"):
        stage(contrast_attention, **dumps, dataset="other.csv", heatmap="page.html")
    with pytest.raises(InputError, match="^heatmap: a dump does not hold its texts; add dataset=..."):
        stage(contrast_attention, **dumps, heatmap="page.html")
    assert not Path("c.pkl").exists() and not Path("page.html").exists()


@pytest.mark.parametrize("kind", ["random", "attention"])
@pytest.mark.parametrize("include_original", [False, True])
def test_stage_3_draws_keep_probabilities_and_the_first_variants(kind, include_original, stage, tiny_model):
    plain = list(map(biography.strip_tags, TEXTS))
    tokenizer = load_tokenizer(str(tiny_model))
    encoded = tokens.encode(tokenizer, plain)
    guidance = {}
    if kind == "attention":
        rows = [
            attention_dump.Row(
                attention_dump.text_hash(text),
                np.arange(len(encoded_text.offsets), dtype=np.float32),
                encoded_text.offsets,
            )
            for text, encoded_text in zip(plain, encoded, strict=True)
        ]
        dump = attention_dump.Dump.of("m", fingerprint(tokenizer), {}, rows)
        attention_dump.write(dump, "weights")
        guidance = {"attn_weights": "weights", "beta": 0.5}
    keys = {"augment_type": kind, "alpha": 0.9, "multiply": 4, "include_original": include_original} | guidance
    keys |= {"model": tiny_model, "dataset": "texts.csv", "save_name": "out"}
    stage(data_augmentation, **keys, heatmap="keep.html")
    found = read("keep.html")
    assert [joined(text) for text in found.texts] == plain
    for text, pieces, encoded_text in zip(plain, found.texts, encoded, strict=True):
        hover = [hover.split(" · ")[0] for *_, hover in pieces if hover]
        count = len(encoded_text.offsets)
        for number, ((start, end), said) in enumerate(
            zip(encoded_text.offsets, [value for part in hover for value in part.split(", ")], strict=True)
        ):
            rank = count - 1 - number
            keep = 1 - 0.9 * (1 - np.exp(-0.5 * rank)) if kind == "attention" else 0.9
            assert float(said) == pytest.approx(1.0 if text[start:end].strip() in (",", ".") else keep, rel=5e-3)
    with open("data_augmented/out.csv", newline="", encoding="utf-8") as opened:
        written = [text for (text,) in csv.reader(opened)][1:]
    each = 4 + include_original
    expected = [written[each * number + variant] for number in range(3) for variant in range(3)]
    assert [joined(variant) for variant in found.variants] == expected
    # The file is what it is without a heat map.
    unshaded = Path("data_augmented/out.csv").read_bytes()
    stage(data_augmentation, **keys)
    assert Path("data_augmented/out.csv").read_bytes() == unshaded
