"""A heat map in headless Chromium, opened from disk: make test-browser. A screenshot of one, for the docs:

python -m tests.test_browser demo_out/picture/difference.html docs/heatmap.png
"""

import contextlib
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from utils import heatmap

pytestmark = pytest.mark.browser

TEXTS = [
    "A <b>\"bold\"</b> & 'plain'\r\n\n\tword  and a tail.",
    "שלום עולם, mixed with English; مرحبا بالعالم. e\u0301te\u0301 👩‍👩‍👧 中文.",
    "Patricia Gray was born on January 20, 1952. The city of birth is New Orleans. " * 3,
]


@contextlib.contextmanager
def opened(path: Path, scheme: str = "light"):
    """The page in Chromium, without a network; that it complains of anything, or asks for more, is an error."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 900, "height": 420}, color_scheme=scheme, offline=True)
        page = context.new_page()
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.resolve().as_uri())
        yield page
        browser.close()
    assert not said
    assert asked == [path.resolve().as_uri()]


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> tuple[Path, list[heatmap.Shaded]]:
    pytest.importorskip("playwright", reason="playwright is not installed: make test-browser")
    if shutil.which("chromium") is None:
        pytest.skip("there is no chromium here: make test-browser")
    generator = np.random.default_rng(0)
    texts = []
    for text in TEXTS:
        offsets = np.array([found.span() for found in re.finditer(r" ?\w+|[^\w\s]|\s+", text)], np.int32)
        values = generator.normal(size=len(offsets)).astype(np.float32)
        ranks = heatmap.ranks(values, np.array([0, len(values)]))
        texts.append(heatmap.Shaded(text, offsets, values, ranks, [f"Variant of {text}"]))
    path = tmp_path_factory.mktemp("page") / "page.html"
    heatmap.write(str(path), "large - small", texts, len(texts), two_sided=True)
    return path, texts


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_shows_the_texts_and_a_tokens_value_under_the_pointer(scheme, shown, tmp_path):
    path, texts = shown
    with opened(path, scheme) as page:
        assert page.locator(".text").all_text_contents() == TEXTS
        assert page.locator(".variant").all_text_contents() == [f"Variant of {text}" for text in TEXTS]
        for one, pieces in zip(texts, page.locator(".text").all(), strict=True):
            shaded = [piece for piece, covering in heatmap.pieces(one.text, one.offsets) if covering]
            assert pieces.locator("span").all_text_contents() == shaded
        # What hovering over a token shows is its own value.
        one, pieces = texts[-1], page.locator(".text").last.locator("span")
        number = int(np.argmax(one.values))
        token = pieces.nth(number)
        hover_style = "token => getComputedStyle(token, '::after')"
        assert token.evaluate(f"{hover_style}.content") == "none"
        token.hover()
        assert token.evaluate(f"{hover_style}.content") == f'"{one.values[number]:.3g} · rank 0"'
        # At the window's lower edge, wherever the page has been scrolled to.
        assert token.evaluate(f"{hover_style}.position") == "fixed"
        red, green, blue = (round(255 * part) for part in heatmap.colour(heatmap.LEVELS, scheme))
        assert token.evaluate("token => getComputedStyle(token).backgroundColor") == f"rgb({red}, {green}, {blue})"
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        page.screenshot(path=tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


if __name__ == "__main__":
    with opened(Path(sys.argv[1])) as page:
        page.locator(".text span", has_text="Tul").hover()
        page.screenshot(path=sys.argv[2])
