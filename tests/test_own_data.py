"""docs/own-data.md: from a folder of text files and a file of questions to scores, by the page's own commands."""

import csv
import json
import re

from tests import tiny
from tests.conftest import ROOT

FIRST_BLOCK = re.search(
    r"^```bash\n(.*?)^```", (ROOT / "docs/own-data.md").read_text(encoding="utf-8"), re.DOTALL | re.M
)
COMMANDS = FIRST_BLOCK[1].replace("\\\n", " ").splitlines()

TEXTS, QUESTIONS = 2, 9


def rows(name: str) -> list[dict]:
    return list(map(json.loads, (ROOT / "data" / name).read_text(encoding="utf-8").splitlines()))


def test_six_commands_lead_from_texts_and_questions_to_scores(workplace, run):
    for name, seed in (("qwen2.5-coder-1.5b", 1), ("qwen2.5-coder-0.5b", 2)):
        tiny.save(workplace / "models" / name, "qwen3", seed=seed, max_position_embeddings=1024)
    paragraphs = rows("paragraphs.jsonl")[:TEXTS]
    files = {paragraph["title"]: f"{number}.txt" for number, paragraph in enumerate(paragraphs)}
    (workplace / "my_texts").mkdir()
    for paragraph in paragraphs:
        (workplace / "my_texts" / files[paragraph["title"]]).write_text(paragraph["text"], encoding="utf-8")
    asked = [one for one in rows("paragraph_questions.jsonl") if one["title"] in files][:QUESTIONS]
    with open(workplace / "my_questions.csv", "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["question", "answer", "paragraph"])
        writer.writerows([one["question"], "|".join(one["answers"]), files[one["title"]]] for one in asked)
    assert len(COMMANDS) == 6 and len(asked) == QUESTIONS
    for command in COMMANDS:
        printed = run(command).stdout
    (metrics,) = (workplace / "my_model").glob("checkpoint-*/evaluation/metrics.json")
    assert f"{QUESTIONS} questions;" in printed
    # 22 texts in batches of 8, ten times.
    assert metrics.parent.parent.name == "checkpoint-30"
    with open(metrics.with_name("predictions.csv"), newline="", encoding="utf-8") as opened:
        assert [row["question"] for row in csv.DictReader(opened)] == [one["question"] for one in asked]
