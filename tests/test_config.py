"""Each YAML and its rules; a user's mistakes: one clear line, exit code 2, at once, and nothing written."""

import atexit
import errno
import gc
import importlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import save_attention
from tests.conftest import ROOT, heed_hangups
from utils import attention_dump, rules, script
from utils.attention_dump import Dump, Row, text_hash
from utils.errors import InputError, is_out_of_memory
from utils.runtime import collect_garbage_rarely, use_huge_pages
from utils.script import CONFIG_FOLDER, check

SCRIPTS = ["save_attention", "contrast_attention", "data_augmentation", "train", "evaluate"]

SAVE = ["python", "save_attention.py", "model=a/b", "save_name=out"]
AUGMENT = ["python", "data_augmentation.py", "model=a/b", "dataset=data/biography_real.csv", "save_name=out"]
RANDOM = [*AUGMENT, "augment_type=random", "multiply=2"]
ATTENTION = [*AUGMENT, "augment_type=attention", "multiply=2", "alpha=0.7", "beta=0.05"]

MISTAKES = {
    "misspelt with the plus": ([*RANDOM, "+alhpa=0.7"], "unknown key alhpa: did you mean alpha?"),
    "misspelt without the plus": ([*RANDOM, "alhpa=0.7"], "unknown key alhpa: did you mean alpha?"),
    "misspelt in a sub-tree": (["python", "train.py", "model_dir=out", "trainer.learningrate=1"], "learningrate"),
    "a key that is missing": (RANDOM, "still needed: alpha=..."),
    "alpha=2": ([*RANDOM, "alpha=2"], "alpha=2: must be a number from 0 to 1"),
    "a word for a number": ([*RANDOM, "alpha=much"], "alpha=much: must be a number from 0 to 1"),
    "multiply=0": ([*RANDOM, "alpha=1", "multiply=0"], "multiply=0: must be a whole number from 1"),
    "a choice that is none": (
        [*ATTENTION, "augment_type=both"],
        "augment_type=both: must be one of: random, attention",
    ),
    "attention without weights": (ATTENTION, "augment_type=attention needs attn_weights=..."),
    "random with weights": ([*RANDOM, "alpha=1", "beta=1"], "beta has no meaning for augment_type=random"),
    "a file that is missing": ([*SAVE, "dataset=none.csv"], "dataset=none.csv: no such file"),
    "a CSV without text": (
        [*SAVE, "dataset=data/prompts_statements.csv"],
        "data/prompts_statements.csv: no column 'text'",
    ),
    "layers that are no list": (
        [*SAVE, "dataset=data/biography_real.csv", "layers=3"],
        "layers=3: must be a list of whole numbers from 0",
    ),
    "a folder without a model": ([*SAVE, "model=data", "dataset=data/biography_real.csv"], "the folder holds no model"),
    "a file that is no model": (
        [*SAVE, "model=data/prompts_statements.csv", "dataset=data/biography_real.csv"],
        "the file is not a GGUF model",
    ),
    "a path that is not there": ([*SAVE, "model=./none", "dataset=data/biography_real.csv"], "no such folder or file"),
    "a dump that is missing": ([*ATTENTION, "attn_weights=none"], "none.pkl: no such dump"),
    "a dump of other texts": ([*ATTENTION, "attn_weights=other"], "other.pkl was made from different texts: row 1"),
    "a dump of fewer texts": ([*ATTENTION, "attn_weights=fewer"], "fewer.pkl was made from different texts: row 1"),
    "a pickle that runs code": ([*ATTENTION, "attn_weights=hostile"], "hostile.pkl: refused: it imports"),
    "a pair of other texts": (
        ["python", "contrast_attention.py", "attn_dump_large=other", "attn_dump_small=fewer", "attn_diff=out"],
        "the dumps are of different texts: model other has 15 rows, model fewer has 1",
    ),
    "a dump against itself": (
        ["python", "contrast_attention.py", "attn_dump_large=other", "attn_dump_small=other", "attn_diff=out"],
        "must be three different files",
    ),
    "a name that can't be written": (
        [
            "python",
            "save_attention.py",
            "model=a/b",
            "dataset=data/prompts_statements.csv",
            "save_name=data/prompts_statements.csv/out",
        ],
        "save_name: data/prompts_statements.csv/out.pkl can't be written",
    ),
    "the dataset as the output": (
        [*RANDOM, "alpha=1", "save_name=../data/biography_real"],
        "save_name: it would overwrite data_augmented/../data/biography_real.csv, which dataset=... reads",
    ),
    "a checkpoint that is not there": (["python", "evaluate.py", "model_dir=out"], "model_dir=out: no such folder"),
    "a plus that is missing": (
        ["python", "train.py", "model_dir=out", "trainer.save_steps=3"],
        "+trainer.save_steps=...",
    ),
    "evaluation of nothing": (["python", "evaluate.py"], "still needed: model_dir=<checkpoint>"),
    "too many shots": (
        ["python", "evaluate.py", "model=a/b", "output_dir=.", "shots=99"],
        "shots=99: the examples have",
    ),
    "a configuration that is not there": (["python", "train.py", "--config-name", "none"], "none"),
    "a value that Hydra can't read": ([*RANDOM, "alpha=[1"], "alpha=[1"),
    "a path that needs quotes": ([*SAVE, "dataset=my été.csv"], "special characters: \"key='value'\""),
    "a sweep into one file": (
        [*RANDOM[:2], "-m", *RANDOM[2:], "alpha=1", "seed=1,2,3"],
        "save_name: the jobs of this sweep would overwrite each other; put the swept key into the name: save_name='...",
    ),
    "a sweep into one file by one of two keys": (
        [*RANDOM[:2], "-m", *RANDOM[2:], "alpha=1", "save_name=x-${seed}", "seed=1,2", "model=a/b,c/d"],
        "save_name='...-${model}'",
    ),
    "a sweep into one heat map": (
        [*SAVE[:2], "-m", *SAVE[2:], "dataset=data/biography_real.csv", "heatmap=page.html", "batch_tokens=1,2"]
        + ["save_name=out-${batch_tokens}"],
        "heatmap: the jobs of this sweep would overwrite each other; put the swept key into the name: heatmap='...",
    ),
    "a sweep into one folder": (
        ["python", "evaluate.py", "-m", "model=a/b,c/d", "output_dir=out"],
        "output_dir: the jobs of this sweep would overwrite each other",
    ),
    "a sweep of trainings into one folder": (
        ["python", "train.py", "-m", "model_dir=out", "trainer.learning_rate=0.1,0.2"],
        "model_dir='...-${trainer.learning_rate}'",
    ),
    "a seed that is too large": (
        ["python", "train.py", "model_dir=out", "seed=4294967296"],
        "seed=4294967296: must be a whole number from 0 to 4294967295",
    ),
    "a name that is too long": ([*RANDOM, "alpha=1", f"save_name={'x' * 300}"], "can't be written: File name too long"),
    "a dataset whose name is too long": ([*SAVE, f"dataset={'x' * 300}"], ": no such file"),
    "an interpolation of nothing": ([*RANDOM, "alpha=1", "save_name=x-${sed}"], "save_name: Interpolation key 'sed'"),
    "an interpolation that is no number": ([*RANDOM, "alpha=${save_name}"], "alpha=out: must be a number from 0 to 1"),
    "a sub-tree as a whole": (
        ["python", "train.py", "model_dir=out", "quant={load_in_4bit: true}"],
        "quant: set its keys one by one: quant.<key>=..., with a plus if the YAML does not list the key",
    ),
    "a name of digits": ([*RANDOM, "alpha=1", "save_name=2024"], "save_name=2024: must be text; quote it"),
}


class RunsCode:
    def __reduce__(self):
        return exec, ("open('ran', 'w')",)


@pytest.fixture(scope="module")
def mistaken(workplace, run):
    row = Row(text_hash("something else"), np.zeros(1, np.float32), np.array([[0, 4]], np.int32))
    attention_dump.write(Dump.of("model other", "t", {}, [row] * 15), workplace / "other")
    attention_dump.write(Dump.of("model fewer", "t", {}, [row]), workplace / "fewer")
    (workplace / "hostile.pkl").write_bytes(pickle.dumps({"version": RunsCode()}))
    return run


def files(folder) -> set:
    """All but what Python and Hydra (of a sweep) write of their own."""
    return {path for path in folder.rglob("*") if not {"__pycache__", "multirun"} & set(path.parts)}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2_before_torch_is_imported(mistake, mistaken, workplace):
    command, message = MISTAKES[mistake]
    before = files(workplace)
    done = mistaken(["python", "-X", "importtime", *command[1:]], code=2)
    imported = re.findall(r"^import time:.*\| +(\S+)$", done.stderr, flags=re.MULTILINE)
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert len(said) == 1, done.stderr
    assert said[0].startswith(command[1] + ": ")
    assert message in said[0]
    assert done.stdout == ""
    # These are what takes seconds; a sub-tree's keys are known to the libraries alone.
    if "sub-tree" not in mistake:
        assert not {"torch", "transformers", "pandas"} & set(imported)
    assert files(workplace) == before


def test_a_misspelt_key_of_a_library_is_one_line_too(run):
    done = run("python train.py model_dir=out +trainer.learningrate=1 model=a/b", code=2)
    assert done.stderr == "train.py: trainer: unknown key learningrate: did you mean learning_rate?\n"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": "abc"}, "trainer.learning_rate=abc: must be a number"),
        ({"num_train_epochs": 0}, "trainer.num_train_epochs=0: must be above 0"),
        ({"per_device_train_batch_size": -3}, "must be above 0"),
        ({"seed": 5}, "trainer.seed: leave it out"),
        ({"bf16": "no"}, "trainer.bf16=no: must be true or false"),
        ({"save_only_model": "no"}, "trainer.save_only_model=no: must be true or false"),
        ({"push_to_hub": 1}, "trainer.push_to_hub=1: must be true or false"),
        ({"save_strategy": "never"}, "trainer.save_strategy=never: must be one of no, steps, epoch, best"),
    ],
)
def test_values_that_the_trainer_would_choke_on_later(values, message, tmp_path):
    from transformers import TrainingArguments

    from utils.arguments import build

    with pytest.raises(InputError, match=message):
        build(TrainingArguments, "trainer", {"use_cpu": True, **values}, output_dir=str(tmp_path), seed=1)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_every_key_before_torch_is_imported(script, run):
    done = run(["python", "-X", "importtime", f"{script}.py", "--help"])
    assert not re.search(r"\| +(torch|transformers|pandas)$", done.stderr, flags=re.MULTILINE)
    written = (CONFIG_FOLDER / f"{script}.yaml").read_text()
    for key in keys(script):
        # The comment above it, from its first words on, and the line with its value.
        comment_and_value = re.search(rf"\n\n((# .*\n)+{key}:.*)\n", written)[1]
        assert f"\n\n{comment_and_value}\n" in f"{done.stdout}\n"
    # How to call it, and nothing of Hydra's own.
    assert f"    python {script}.py " in done.stdout
    assert f"conf/{script}.yaml" in done.stdout
    assert "defaults:" not in done.stdout and "override hydra" not in done.stdout
    assert run(f"python {script}.py model=none -h").stdout == done.stdout


def keys(script: str) -> list[str]:
    return [key for key in OmegaConf.load(CONFIG_FOLDER / f"{script}.yaml") if key != "defaults"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_key_has_a_rule_a_comment_and_a_reader(script):
    lines = (CONFIG_FOLDER / f"{script}.yaml").read_text().splitlines()
    rules = importlib.import_module(script).RULES
    assert keys(script) == list(rules)
    code = (CONFIG_FOLDER.parent / f"{script}.py").read_text()
    for key in keys(script):
        (line,) = [number for number, line in enumerate(lines) if line.startswith(f"{key}:")]
        assert lines[line - 1].startswith("# "), f"{key} has no comment"
        assert re.search(rf"""config\.{key}\b|settings\["{key}"\]|config\[key\]""", code), f"nothing reads {key}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_defaults_pass_their_own_rules(script):
    rules = importlib.import_module(script).RULES
    with initialize_config_dir(str(CONFIG_FOLDER), version_base=None):
        composed = compose(script)
    for key, rule in rules.items():
        if not OmegaConf.is_missing(composed, key):
            rule(composed[key])


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (rules.number(0, 1), [0, 1, 0.5], [-0.1, 1.1, "0.5", True, None, float("nan")]),
        (rules.integer(1), [1, 7], [0, 1.5, True, "1", None]),
        (rules.boolean(), [True, False], [0, "true", None]),
        (rules.optional(rules.integer(1)), [None, 2], [0]),
        (rules.one_of("auto", True, False), ["auto", True, False], ["Auto", None, 1, "true"]),
        (rules.text(), ["a"], ["", 3, None]),
        (save_attention.layer_numbers, [[0], [3, 1]], [[], 3, "12", [-1], [1.5], [True], ["a"], None]),
        (rules.model(), ["gpt2", "org/name-1.5B"], ["", "a/b/c", "/none", "../none", "none.gguf", 5, "org/na me"]),
    ],
)
def test_rules(rule, good, bad):
    assert [rule(value) for value in good] == good
    for value in bad:
        with pytest.raises(ValueError, match="must|no such|goes in quotes"):
            rule(value)


def test_a_missing_interpolation_is_an_input_error():
    with pytest.raises(InputError, match="x"):
        check(OmegaConf.create({"x": "${nowhere}"}), {"x": rules.text()})


def test_large_tensors_get_huge_pages_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    use_huge_pages()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    use_huge_pages()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_threads_wait_briefly_unless_the_user_says_otherwise(given, spins):
    """As torch's OpenMP says when it is loaded."""
    code = "import sys, save_attention; sys.argv[1:] = ['--help']; save_attention.main(); import torch"
    others = {key: os.environ[key] for key in os.environ if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment = others | {"OMP_DISPLAY_ENV": "VERBOSE"} | given
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert re.findall("GOMP_SPINCOUNT = '([0-9]+)'", done.stderr) == [spins], done.stderr


def test_garbage_is_collected_rarely_but_still_collected():
    before = gc.get_threshold()
    try:
        collect_garbage_rarely()
        assert gc.isenabled()
        assert gc.get_threshold()[0] >= 10 * 700
    finally:
        gc.set_threshold(*before)
        atexit.unregister(gc.freeze)


def test_a_file_that_may_not_be_read_is_said(tmp_path, monkeypatch):
    path = tmp_path / "texts.csv"
    path.write_text("text\n")
    assert rules.file()(str(path)) == str(path)
    # Of root, as whom tests may run, nothing is kept.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)
    with pytest.raises(ValueError, match="permission denied"):
        rules.file()(str(path))


def test_a_folder_that_may_not_be_looked_into_is_said(tmp_path, monkeypatch):
    def closed(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "stat", closed)
    for rule in (rules.file(), rules.model(), rules.checkpoint()):
        with pytest.raises(InputError, match="^key=closed/x: can't be read: Permission denied$"):
            script.check(OmegaConf.create({"key": "closed/x"}), {"key": rule})


def out_of_memory(kind: str) -> BaseException:
    if kind == "Python's":
        return MemoryError()
    if kind == "a processor's":
        return RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried")
    return type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("kind", ["Python's", "a processor's", "a GPU's"])
@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("save_attention", "lower batch_tokens; resume=true continues from what was kept"),
        ("contrast_attention", "free some, or split the texts"),
        ("data_augmentation", "free some, or split the texts; resume=true continues from what was kept"),
        (
            "train",
            "lower trainer.per_device_train_batch_size or window; resume=true continues from what was kept",
        ),
        ("evaluate", "lower batch_tokens; resume=true continues from what was kept"),
    ],
)
def test_where_memory_runs_out_a_line_says_what_to_lower(monkeypatch, capsys, kind, name, advice):
    keys = dict.fromkeys(importlib.import_module(name).RULES, lambda value: value)

    @script.script(name, keys, writes=list(keys)[:1])
    def main(config):
        raise out_of_memory(kind)

    missing = OmegaConf.missing_keys(OmegaConf.load(CONFIG_FOLDER / f"{name}.yaml"))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *(f"{key}=x" for key in missing)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"{name}.py: out of memory: {advice}\n"


def test_a_fault_of_ours_is_not_taken_for_want_of_memory():
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))


@pytest.mark.parametrize(
    "said", ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ..."]
)
def test_want_of_memory_that_cuda_tells_in_a_usual_error_is_known(said):
    assert is_out_of_memory(RuntimeError(said))


CANCELLED = """
import atexit
import time
from pathlib import Path
from contrast_attention import RULES
from utils import artifacts, rules, runtime, script

# What utils.processes.leave goes by.
atexit.register(lambda: print("has stopped:", runtime.has_stopped))

@script.script("contrast_attention", RULES, writes=["attn_diff"])
def main(keys):
    with artifacts.whole_file(Path(keys.attn_diff)) as aside:
        aside.write_text("half")
        print("writing", flush=True)
        time.sleep(60)

main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_script_that_is_stopped_leaves_nothing_half_written(tmp_path, number):
    keys = ["attn_dump_large=a", "attn_dump_small=b", f"attn_diff={tmp_path}/c"]
    command = [sys.executable, "-c", CANCELLED, *keys]
    with subprocess.Popen(
        command,
        cwd=CONFIG_FOLDER.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_hangups,
    ) as script:
        assert script.stdout.readline() == "writing\n"
        assert list(tmp_path.iterdir())
        script.send_signal(number)
        printed, said = script.communicate()
    assert (script.returncode, said) == (130, "contrast_attention.py: stopped\n")
    assert printed == "has stopped: True\n"
    assert not list(tmp_path.iterdir())


def test_under_nohup_a_script_outlives_its_terminal(tmp_path):
    keys = ["attn_dump_large=a", "attn_dump_small=b", f"attn_diff={tmp_path}/c"]
    with subprocess.Popen(
        ["nohup", sys.executable, "-c", CANCELLED, *keys],
        cwd=CONFIG_FOLDER.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as script:
        assert script.stdout.readline() == "writing\n"
        script.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            script.wait(timeout=0.5)
        script.kill()


def test_a_sweep_whose_names_hold_what_is_swept(run, workplace, tiny_model):
    arguments = ["augment_type=random", "alpha=0.5", "multiply=1", f"model={tiny_model}", "save_name=swept/x-${seed}"]
    run(["python", "data_augmentation.py", "-m", *arguments, "dataset=data/biography_real.csv", "seed=1,2"])
    written = {path.name: path.read_bytes() for path in (workplace / "data_augmented/swept").iterdir()}
    assert set(written) == {"x-1.csv", "x-1.json", "x-2.csv", "x-2.json"}
    assert written["x-1.csv"] != written["x-2.csv"]
    # What is recorded is what was meant.
    record = json.loads(written["x-2.json"])["config"]
    assert (record["seed"], record["save_name"]) == (2, "swept/x-2")


@pytest.mark.parametrize(
    ("place", "recorded"),
    [
        ("~/texts.csv", "{home}/texts.csv"),
        ("./texts.csv", "texts.csv"),
        ("{home}//./texts.csv", "{home}/texts.csv"),
        # A link may lead elsewhere before the dots lead up.
        ("../{name}/texts.csv", "../{name}/texts.csv"),
    ],
)
def test_a_place_may_be_written_in_any_way(place, recorded, tmp_path, tiny_model, warm_python):
    (tmp_path / "texts.csv").write_text("text\nAda was born in Lyon.\n")
    place, recorded = (one.format(home=tmp_path, name=tmp_path.name) for one in (place, recorded))
    command = [warm_python, CONFIG_FOLDER.parent / "data_augmentation.py", "augment_type=random"]
    keys = ["alpha=0.5", "multiply=1", f"model={tiny_model}/", f"dataset={place}", f"save_name={tmp_path}/out/"]
    done = subprocess.run(
        [*command, *keys], cwd=tmp_path, env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out.json").read_text())["config"]
    assert (record["model"], record["save_name"]) == (str(tiny_model), f"{tmp_path}/out")
    assert record["dataset"] == recorded


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_name_that_standard_output_can_not_spell_is_escaped(encoding, tiny_model, tmp_path):
    (tmp_path / "größe日.csv").write_text("text\nAda was born in Lyon.\n")
    keys = ["augment_type=random", "alpha=0.5", "multiply=1", "dataset='größe日.csv'", "save_name='größe日'"]
    done = subprocess.run(
        [sys.executable, CONFIG_FOLDER.parent / "data_augmentation.py", f"model={tiny_model}", *keys],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        encoding=encoding,
    )
    assert done.returncode == 0, done.stderr
    assert "größe日".encode(encoding, "backslashreplace").decode(encoding) in done.stdout
