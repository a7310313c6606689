"""The commands of the README and of docs/ are commands: each composes, and its values pass the rules."""

import importlib.util
import re
import shlex
import shutil

import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tests.conftest import ROOT
from utils.rules import model
from utils.script import CONFIG_FOLDER
from workflow import readme

DOCS = sorted((ROOT / "docs").glob("*.md"))
WRITTEN = "".join(page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *DOCS])
BLOCKS = re.findall(r"^```bash\n(.*?)^```", WRITTEN, flags=re.DOTALL | re.MULTILINE)
INLINE = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", WRITTEN, flags=re.DOTALL | re.MULTILINE))
LINES = "".join(BLOCKS).replace("\\\n", " ").splitlines() + [one for one in INLINE if " " in one]
SCRIPTS = ["save_attention", "contrast_attention", "data_augmentation", "train", "evaluate"]
COMMANDS = [line for line in LINES if any(f"{script}.py" in line for script in SCRIPTS)]


def test_there_are_commands_for_all_five_scripts():
    scripts = {name for command in COMMANDS for name in re.findall(r"(\w+)\.py", command)}
    assert scripts >= set(SCRIPTS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_is_understood(command):
    words = shlex.split(command, comments=True)
    (script,) = [word.removesuffix(".py") for word in words if word.endswith(".py")]
    overrides = [word for word in words[words.index(f"{script}.py") + 1 :] if "=" in word and not word.startswith("--")]
    rules = importlib.import_module(script).RULES
    with initialize_config_dir(str(CONFIG_FOLDER), version_base=None):
        config = compose(script, overrides)
    assert set(config) == set(rules)
    assert not OmegaConf.missing_keys(config)
    for key, rule in rules.items():
        try:
            rule(config[key])
        except ValueError as problem:
            # What an earlier command makes, or the reader brings, is not here.
            expected = str(problem).startswith(("no such file", "no such folder"))
            assert expected or rule.__qualname__ == model().__qualname__, problem


def test_the_other_commands_are_there():
    targets = {line.removeprefix("make ").split()[0] for line in LINES if line.startswith("make ")}
    modules = {module for line in LINES for module in re.findall(r"^python -m (\S+)", line)}
    tables = {table for line in LINES for table in re.findall(r"--configfile (\S+)", line)}
    assert targets and modules and tables
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}:" in makefile for target in targets), targets
    assert all(importlib.util.find_spec(module) for module in modules), modules
    assert all((ROOT / table).is_file() for table in tables), tables


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1300


def test_the_file_table_names_every_module():
    table = (ROOT / "docs/files.md").read_text(encoding="utf-8")
    for pattern in ("*.py", "demo/*.*", "utils/*.py", "workflow/**/*.py", "workflow/rules/*.smk"):
        for path in ROOT.glob(pattern):
            assert path.name in table or path.name == "__init__.py", path.name


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.parent.name)
def test_the_tables_are_as_the_results_have_them(page):
    text = page.read_text(encoding="utf-8")
    assert readme.MARKED.search(text)
    assert readme.filled(text) == text


def test_what_is_for_any_machine_asks_for_no_8_bit():
    """On a GPU the YAML's 8 bit would apply, and need bitsandbytes and what it works on."""
    pages = [(ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ") for name in ("README.md", "demo/demo.sh")]
    commands = [line for page in pages for line in page.splitlines() if re.search(r"^ *(run )?python train.py ", line)]
    assert len(commands) == 3 and all(" quant=null" in command for command in commands)
    for path in sorted((ROOT / "conf/tables").glob("smoke*.yaml")):
        train = yaml.safe_load(path.read_text(encoding="utf-8"))["train"]
        assert "quant" in train and train["quant"] is None, path


def test_a_marked_place_is_filled():
    table = "# t\n\n## one\n\n| a |\n| 1 |\n\n## two\n\n| b |\n"
    assert readme.section(table, "one") == "| a |\n| 1 |"
    assert readme.section(table, "two") == "| b |"


def test_what_has_no_results_is_a_dash(monkeypatch, tmp_path):
    for name in ("paper/table2_numbers.csv", "paper_qwen_0.5b/table.csv"):
        (tmp_path / "results" / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / "results" / name, tmp_path / "results" / name)
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    before = readme.methods().splitlines()
    path = tmp_path / "results/paper/table2_numbers.csv"
    table = pd.read_csv(path)
    gone = (table["model"] == "Qwen2.5-Coder 0.5B") & (table["arm"] == "random")
    table.loc[gone, "chosen on the others"] = None
    table.to_csv(path, index=False)
    after = [[cell.strip() for cell in row.split("|")[1:-1]] for row in readme.methods().splitlines()]
    for cells, row in zip(after, before, strict=True):
        was = [cell.strip() for cell in row.split("|")[1:-1]]
        assert cells == ([*was[:4], "–", "–", "–"] if was[0] == "random dropout" else was) or cells[0].startswith(":-")


@pytest.mark.parametrize(
    "page", [*readme.PAGES, *DOCS, ROOT / "data/README.md"], ids=lambda page: f"{page.parent.name}/{page.name}"
)
def test_the_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
