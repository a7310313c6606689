"""Texts with each token shaded by its value: an HTML page that opens from disk by itself, or a PNG.

A scale from 0 up is orange. One with both signs is orange above 0 and blue below it, as dark at one distance as at the
other; what is above 0 is underlined as well, so that the sign survives in grey.
"""

import html
import importlib.util
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils import artifacts
from utils.dropout import ranks
from utils.errors import InputError

# What a browser opens at once, and what a picture has room for: texts, and characters of all of them.
MOST = {".html": (100, 200_000), ".png": (3, 2_400)}

LEVELS = 10  # of shade, on each side of 0

# The scale's end is this percentile of the distances from 0, so that a single token does not leave all others pale.
PERCENTILE = 95

ORANGE, BLUE = 55, 255  # hues, in degrees

# The lightness of no shade and of the deepest, from 0 to 1.
THEMES = {"light": (1.0, 0.44), "dark": (0.22, 0.85)}

VISIBLE = {" ": "␣", "\t": "⇥", "\n": "↵", "\r": "␍"}


class Shaded(NamedTuple):
    """A text without tags; offsets: int [n, 2], each token's characters, end exclusive; values: float [n], what shades;
    ranks: int [n], 0 for the highest of the text, or None without any; variants of the text, to stand below it."""

    text: str
    offsets: np.ndarray
    values: np.ndarray
    ranks: np.ndarray | None
    variants: Sequence[str] = ()


class Scale(NamedTuple):
    """The value of the deepest shade, and whether values below 0 have shades of their own."""

    end: float
    two_sided: bool

    def levels(self, values: np.ndarray) -> np.ndarray:
        """int [n]: from 0, or from -LEVELS, to LEVELS."""
        return np.rint(np.clip(values / self.end, -1 if self.two_sided else 0, 1) * LEVELS).astype(int)

    def steps(self) -> range:
        return range(-LEVELS if self.two_sided else 0, LEVELS + 1)


def check(path: str, dataset: str | None) -> None:
    """Raise InputError now, and not after hours of work, where the picture can't be drawn or written there."""
    artifacts.check_apart("heatmap", [Path(path)], dataset=dataset)
    artifacts.check_writable("heatmap", Path(path))
    if path.endswith(".png") and importlib.util.find_spec("matplotlib") is None:
        raise InputError(f"heatmap={path}: pip install matplotlib first, or name a file that ends in .html")


def shaded_rows(texts: Iterable[str], rows: Iterable) -> Iterator[Shaded]:
    """The texts with what a dump holds of each (utils.attention_dump.Row)."""
    for text, row in zip(texts, rows, strict=False):
        yield Shaded(text, row.offsets, row.values, ranks(row.values, np.array([0, len(row.values)])))


def write(
    path: str, title: str, texts: Iterable[Shaded], total: int, two_sided: bool = False, end: float | None = None
) -> None:
    """Draw the first of `total` texts, and print how many; `end`: see Scale, None for one that the values decide."""
    path = Path(path)
    most_texts, most_characters = MOST[path.suffix]
    shown = list(first(texts, most_texts, most_characters))
    if end is None:
        sizes = np.abs(np.concatenate([np.zeros(1), *(one.values for one in shown)]))
        # Of values that are nearly all 0 the percentile is 0.
        end = float(np.percentile(sizes, PERCENTILE)) or float(sizes.max()) or 1.0
    count = f"{len(shown)} of {total:,} texts"
    if sum(len(one.text) for one in shown) >= most_characters:
        count += f", cut after {most_characters:,} characters"
    scale = Scale(end, two_sided)
    with artifacts.whole_file(path) as aside:
        if path.suffix == ".html":
            aside.write_text(page(title, count, shown, scale), encoding="utf-8", newline="")
        else:
            draw(aside, title, shown, scale)
    print(f"{path}: {count}")


def first(texts: Iterable[Shaded], most_texts: int, most_characters: int) -> Iterator[Shaded]:
    """As many texts as there is room for; the last of them may lose its end."""
    room = most_characters
    for one in islice(texts, most_texts):
        if len(one.text) > room:
            inside = one.offsets[:, 1] <= room
            token_parts = one.offsets[inside], one.values[inside], None if one.ranks is None else one.ranks[inside]
            one = Shaded(one.text[:room], *token_parts, [variant[:room] for variant in one.variants])
        yield one
        room -= len(one.text)
        if room <= 0:
            return


def pieces(text: str, offsets: np.ndarray) -> Iterator[tuple[str, list[int]]]:
    """The text in pieces, each with the numbers of its tokens: none where no token covers it; several where tokens
    share a character, as those of an emoji's bytes do, or where one begins with a mark on the letter before it."""
    begin, end, covering = 0, 0, []
    for number, (start, stop) in enumerate(offsets.tolist()):
        if start == stop:
            continue
        if not covering or (start >= end and not (start == end and belongs_to_last(text, start))):
            if covering:
                yield text[begin:end], covering
            if start > end:
                yield text[end:start], []
            begin, covering = start, []
        covering.append(number)
        end = max(end, stop)
    if covering:
        yield text[begin:end], covering
    if end < len(text):
        yield text[end:], []


def belongs_to_last(text: str, place: int) -> bool:
    """Whether the character there is drawn as one with the character before it."""
    joiner = "\u200d"
    return text[place] == joiner or text[place - 1] == joiner or unicodedata.category(text[place]).startswith("M")


def hover_text(one: Shaded, covering: list[int]) -> str:
    """The values and the ranks of a piece's tokens."""
    said = ", ".join(f"{one.values[number]:.3g}" for number in covering)
    if one.ranks is not None:
        said += f" · rank {', '.join(str(one.ranks[number]) for number in covering)}"
    return said


def piece_levels(one: Shaded, scale: Scale) -> Iterator[tuple[str, list[int], int]]:
    """The text's pieces, each with its tokens' numbers and its shade: that of the tokens' mean, 0 without a token."""
    for piece, covering in pieces(one.text, one.offsets):
        value = one.values[covering].mean(keepdims=True) if covering else np.zeros(1)
        yield piece, covering, int(scale.levels(value)[0])


def colour(level: int, theme: str) -> tuple[float, float, float]:
    """Red, green and blue of a shade, each from 0 to 1: equal steps of OKLCH's lightness, whatever the hue."""
    share = abs(level) / LEVELS
    none, deepest = THEMES[theme]
    lightness = none + share * (deepest - none)
    chroma, hue = 0.12 * share**0.6, math.radians(ORANGE if level > 0 else BLUE)
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    # OKLab into linear sRGB, by Ottosson's matrices.
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
    )
    parts = (min(1.0, max(0.0, part)) for part in linear)
    return tuple(12.92 * part if part <= 0.0031308 else 1.055 * part ** (1 / 2.4) - 0.055 for part in parts)


def luminance(rgb: Sequence[float]) -> float:
    """Relative luminance as WCAG defines it, from 0 to 1."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def ink(rgb: Sequence[float]) -> str:
    """Black or white, whichever stands out more against the colour: never less than 4.5 to 1."""
    return "#000000" if (luminance(rgb) + 0.05) ** 2 > 0.05 * 1.05 else "#ffffff"


def hexadecimal(rgb: Sequence[float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def legend(scale: Scale) -> list[tuple[int, str]]:
    """Each shade with the number that stands in it: every second has one, so that they fit."""
    return [(step, f"{scale.end * step / LEVELS:.2g}" if step % 2 == 0 else "") for step in scale.steps()]


def signs(scale: Scale) -> str:
    return "orange and underlined: above 0, blue: below 0; " if scale.two_sided else ""


# The page

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.9 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto 4rem; padding: 0 1rem;
  color: #000000; background: #ffffff; print-color-adjust: exact; -webkit-print-color-adjust: exact }
h1 { font-size: 1.2rem; overflow-wrap: anywhere }
.text, .variant { white-space: pre-wrap; overflow-wrap: anywhere }
.variant { line-height: 1.4; font-size: .9rem }
.text span { box-shadow: inset 0 0 0 .5px #8888 }
.text span:hover { outline: 2px solid currentColor }
.text span:hover::after { content: attr(data-hover); position: fixed; bottom: 0; left: 0; right: 0; z-index: 1;
  padding: .2rem 1rem; direction: ltr; text-align: center; color: #ffffff; background: #333333 }
.legend span { display: inline-block; min-width: 1.2rem; height: 1.6rem; line-height: 1.6rem; padding: 0 .2rem;
  font-size: .7rem; text-align: center; vertical-align: top }
u { text-decoration: none; opacity: .5 }
u::before { content: attr(data-sign) }
.two-sided [class^=s]:not(.s0) { text-decoration: underline 2px }
"""


def page(title: str, count: str, shown: list[Shaded], scale: Scale) -> str:
    name = html.escape(title)
    boxes = "".join(f'<span class="{css_class(level)}">{number}</span>' for level, number in legend(scale))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{name}</title>
<style>{STYLE}{shades(scale)}</style>
</head>
<body{' class="two-sided"' if scale.two_sided else ""}>
<h1>{name}</h1>
<p class="legend">{boxes}</p>
<p>{count}; {signs(scale)}values beyond the scale have its last shade.
Hover over a token for its value and its rank in its text, 0 for the highest.</p>
{"".join(section(one, scale) for one in shown)}</body>
</html>
"""


def section(one: Shaded, scale: Scale) -> str:
    """A text and its variants; without its tags it is the text again, character by character."""
    written = "".join(
        f'<span class="{css_class(level)}" data-hover="{hover_text(one, covering)}">{visible(piece)}</span>'
        if covering
        else visible(piece)
        for piece, covering, level in piece_levels(one, scale)
    )
    variants = "".join(f'<p class="variant" dir="auto">{escaped(variant)}</p>\n' for variant in one.variants)
    return f'<section lang="">\n<p class="text" dir="auto">{written}</p>\n{variants}</section>\n'


def visible(piece: str) -> str:
    """The piece for the page: signs stand before ends of lines, and before each character of a piece of white space."""
    signed = VISIBLE if piece.isspace() else {"\n": VISIBLE["\n"]}
    return "".join(
        f'<u data-sign="{signed[letter]}"></u>{escaped(letter)}' if letter in signed else escaped(letter)
        for letter in piece
    )


def escaped(text: str) -> str:
    """HTML would read a carriage return as the end of a line, and has no character of number 0."""
    return html.escape(text).replace("\r", "&#13;").replace("\0", "␀")


def css_class(level: int) -> str:
    """`s3` for a shade from 0 up, `d3` for one below it."""
    return f"s{level}" if level >= 0 else f"d{-level}"


def shades(scale: Scale) -> str:
    def rules(theme: str) -> str:
        return "".join(
            f".{css_class(level)} {{ background: {hexadecimal(rgb)}; color: {ink(rgb)} }}\n"
            for level in scale.steps()
            for rgb in [colour(level, theme)]
        )

    dark = colour(0, "dark")
    body = f"body {{ background: {hexadecimal(dark)}; color: {ink(dark)} }}\n"
    return f"{rules('light')}@media (prefers-color-scheme: dark) {{\n{body}{rules('dark')}}}\n"


# The picture

COLUMNS = 88
FONT, FONT_SIZE = "DejaVu Sans Mono", 11  # in points
WIDTH, HEIGHT = 0.602 * FONT_SIZE / 72, 1.75 * FONT_SIZE / 72  # of a character and of a line, in inches


def draw(path: Path, title: str, shown: list[Shaded], scale: Scale) -> None:
    """A PNG of the texts in a grid of characters, as on a typewriter. Scripts that its font lacks need the page."""
    import warnings

    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    lines = []
    for one in shown:
        lines += [*lines_of(one, scale), []]
    figure = Figure((WIDTH * (COLUMNS + 2), HEIGHT * (len(lines) + 4)))
    panel = figure.add_axes((0, 0, 1, 1), xlim=(-1, COLUMNS + 1), ylim=(len(lines) + 3.5, -0.5))
    panel.axis("off")

    def put(line: float, column: float, written: str, rgb=(1.0, 1.0, 1.0), size: int = FONT_SIZE) -> None:
        panel.text(column, line, written, color=ink(rgb), size=size, family=FONT, va="center", parse_math=False)

    def box(line: int, column: int, width: int, level: int) -> None:
        rgb = colour(level, "light")
        place = (column, line - 0.42), width, 0.84
        panel.add_patch(Rectangle(*place, facecolor=rgb, edgecolor="#888888", linewidth=0.2))
        if scale.two_sided and level > 0:
            panel.plot((column + 0.1, column + width - 0.1), (line + 0.34,) * 2, color=ink(rgb), linewidth=0.8)

    put(0.5, 0, title[:COLUMNS])
    put(1.4, 0, f"{signs(scale)}last shade: {scale.end:.2g} and beyond", size=8)
    for place, (level, number) in enumerate(legend(scale)):
        box(2, 4 * place, 4, level)
        put(2, 4 * place + 0.3, number, colour(level, "light"), size=7)
    for line, cells in enumerate(lines, start=4):
        column = 0
        for (_, level), run in groupby(cells, key=itemgetter(2, 3)):
            letters, widths, *_ = zip(*run, strict=True)
            if level is not None:
                box(line, column, sum(widths), level)
            put(line, column, "".join(letters), colour(level or 0, "light"))
            column += sum(widths)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(path, format="png", dpi=150)


def lines_of(one: Shaded, scale: Scale) -> Iterator[list[tuple[str, int, int, int | None]]]:
    """The text's lines, wrapped: of each character what is drawn, its width in columns, the number of its piece, and
    its shade or None. A line ends after white space, if it has any."""
    line, width = [], 0
    for number, (piece, covering, level) in enumerate(piece_levels(one, scale)):
        signed = VISIBLE if piece.isspace() and covering else {**VISIBLE, " ": " "}
        for letter in piece:
            columns = columns_of(letter)
            if width + columns > COLUMNS:
                end = max((place + 1 for place, cell in enumerate(line) if cell[0] in " ␣"), default=len(line))
                yield line[:end]
                line = line[end:]
                width = sum(cell[1] for cell in line)
            line.append((signed.get(letter, letter), columns, number, level if covering else None))
            width += columns
            if letter == "\n":
                yield line
                line, width = [], 0
    if line:
        yield line


def columns_of(letter: str) -> int:
    """How wide a character is in a grid: marks have no column, Chinese characters two."""
    if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
