"""The logs of the workflow's rules, and their benchmarks: each has one, and a script's error is in its log and on the
terminal."""

import re
import sys

import pytest

from tests.conftest import ROOT
from utils.errors import InputError
from workflow.logs import logged

RULES = {
    f"{path.stem}: {name}": (name, body)
    for path in [ROOT / "workflow/Snakefile", *sorted((ROOT / "workflow/rules").glob("*.smk"))]
    for name, body in re.findall(r"^rule (\w+):\n((?:    .*\n|\n)+)", path.read_text(encoding="utf-8"), re.MULTILINE)
}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_has_a_log_and_a_benchmark_that_bear_its_name(rule):
    name, body = RULES[rule]
    assert ("log:" in body) == (name != "all")
    logs = re.findall(r'    log:\n        f?".*logs/(.*)\.log",\n', body)
    assert [re.match(r"\w+", log)[0] for log in logs] == ([] if name == "all" else [name])
    # Its time and memory, by the same name.
    assert re.findall(r'    benchmark:\n        f?".*benchmarks/(.*)\.tsv"\n', body) == logs
    if "    shell:\n" in body:
        assert "    shell:\n        with_log(" in body
    else:
        scripts = re.findall(r'    script:\n        "\.\./scripts/(.*)"\n', body)
        assert len(scripts) == (name != "all")
        for script in scripts:
            assert "with logged(snakemake.log[0]):" in (ROOT / "workflow/scripts" / script).read_text(encoding="utf-8")


def test_what_is_printed_is_in_the_log_as_well(tmp_path, capsys):
    with logged(tmp_path / "log"):
        print("one")
        print("two", file=sys.stderr)
    print("three")
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    assert capsys.readouterr() == ("one\nthree\n", "two\n")


@pytest.mark.parametrize("error", [InputError("x=1: must be 2"), ValueError("of two")])
def test_an_error_is_in_the_log_as_well(error, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended, logged(tmp_path / "log"):
        print("one", flush=True)
        raise error
    out, err = capsys.readouterr()
    assert (tmp_path / "log").read_text() == out + err
    if isinstance(error, InputError):
        assert (ended.value.code, err) == (2, "x=1: must be 2\n")
    else:
        assert ended.value.code == 1
        assert err.startswith("Traceback") and err.endswith("ValueError: of two\n")
