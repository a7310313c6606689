"""The tables of README.md and results/README.md: what stands between `<!-- results/NAME/table.md: SECTION -->` and
`<!-- end -->`.

python workflow/readme.py
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.artifacts import whole_file

ROOT = Path(__file__).resolve().parent.parent

PAGES = [ROOT / "README.md", ROOT / "results/README.md"]

MARKED = re.compile(r"(<!-- (\S+): ([^\n]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def section(markdown: str, heading: str) -> str:
    """What follows `## heading`, up to the next heading."""
    (found,) = re.findall(rf"^## {re.escape(heading)}\n+(.*?)\s*(?=^#|\Z)", markdown, re.DOTALL | re.MULTILINE)
    return found


def filled(text: str) -> str:
    """The text with each marked place holding its table as it stands in results/ now."""

    def fill(match: re.Match) -> str:
        table = section((ROOT / match[2]).read_text(encoding="utf-8"), match[3])
        return f"{match[1]}\n{table}\n\n{match[4]}"

    return MARKED.sub(fill, text)


if __name__ == "__main__":
    for page in PAGES:
        with whole_file(page) as aside:
            aside.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
