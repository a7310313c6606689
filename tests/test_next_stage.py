"""The last line of each stage: the time it took, and a command that the shell, Hydra and the next script take."""

import importlib
import shlex

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT
from utils import next_stage


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (754, "12 min 34 s"),
        (3599.7, "1 h 0 min"),
        (90061, "25 h 1 min"),
    ],
)
def test_a_duration(seconds, said):
    assert next_stage.duration(seconds) == said


def understood(command: str) -> dict:
    overrides = OverridesParser.create().parse_overrides(shlex.split(command))
    return {override.key_or_group: override.value() for override in overrides}


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n$"), min_size=1))
def test_a_name_comes_through_the_shell_and_hydra_as_it_is(name):
    assert understood(next_stage.override("key", name)) == {"key": name}


@pytest.mark.parametrize("name", ["attn_diff", "data/my-texts.csv", "../a.b/c", "org/name", "/x/y", "~x"])
def test_a_plain_name_needs_few_quotes(name):
    assert next_stage.override("key", name) in (f"key={name}", f"""'key='"'"'{name}'"'"''""")


@pytest.mark.parametrize("name", ["2024", "null", "True", "nan", "1e3", "a b", "a,b", "it's", "é", "", "${x}", "x\\"])
def test_what_is_no_plain_name_is_still_text(name):
    command = next_stage.override("key", name)
    assert understood(command)["key"] in (name, name.replace("$", "\\$"))
    assert type(understood(command)["key"]) is str


def test_how_a_dataset_is_read_is_handed_on_where_it_is_not_the_yamls():
    for name in ("save_attention", "contrast_attention", "data_augmentation", "train"):
        given = yaml.safe_load((ROOT / f"conf/{name}.yaml").read_text(encoding="utf-8"))
        assert next_stage.dataset_keys(given) == {}
        assert next_stage.dataset_keys(given | {"text_column": "body", "tags": False}) == {
            "text_column": "body",
            "tags": False,
        }
    assert understood(next_stage.override("tags", False)) == {"tags": False}
    assert next_stage.override("tags", False) == "tags=false"


def test_only_the_first_process_speaks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    next_stage.announce(0.0)
    assert capsys.readouterr().out == ""


def test_without_a_next_stage_the_time_alone(monkeypatch, capsys):
    monkeypatch.setattr(next_stage.time, "monotonic", lambda: 75.0)
    next_stage.announce(10.0)
    assert capsys.readouterr().out == "Took 1 min 5 s.\n"
    next_stage.announce(10.0, "evaluate", model_dir="out/checkpoint-2")
    assert capsys.readouterr().out == "Took 1 min 5 s. Next: python evaluate.py model_dir=out/checkpoint-2\n"


def test_a_chain_of_the_stages_goes_by_what_each_says(tiny_model, script_here, tmp_path, monkeypatch, capsys):
    """But for the words in capitals, each stage's command is typed as the stage before it printed it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my texts.csv").write_text("text\nAda was born in Lyon.\nBo was born in Odense.\n")
    words = {"SMALL": "second", "DIFFERENCE": "difference", "NAME": "augmented", "MODEL_DIR": "out"}
    words["DATASET"] = "'my texts.csv'"
    more = {
        "train": "quant=null trainer.bf16=false trainer.max_steps=1 trainer.save_strategy=steps +trainer.save_steps=1"
    }

    def run(command: str) -> str | None:
        script, *arguments = shlex.split(command)
        monkeypatch.setattr("sys.argv", [f"{script}.py", *arguments])
        importlib.import_module(script).main()
        *_, last = capsys.readouterr().out.splitlines()
        assert last.startswith("Took ")
        following = last.partition(" Next: python ")[2]
        for word, value in words.items():
            following = following.replace(f"={word}", f'="{value}"')
        name, _, keys = following.partition(".py ")
        return f"{name} {keys} {more.get(name, '')}" if following else None

    run(f"save_attention model={tiny_model} dataset=\"'my texts.csv'\" save_name=second")
    command = run(f"save_attention model={tiny_model} dataset=\"'my texts.csv'\" save_name=first")
    scripts = []
    while command and not command.startswith("evaluate"):
        scripts.append(command.split()[0])
        command = run(command)
    assert scripts == ["contrast_attention", "data_augmentation", "train"]
    assert command.strip() == "evaluate model_dir=out/checkpoint-1"
