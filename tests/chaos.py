"""Faults of every kind in the five stages, at every step of theirs on the disk, and what is left of each.

    python -m tests.chaos [FAULTS [SEED [SCRIPT]]]    (make chaos; a small part of it is tests/test_chaos.py)

Each trial begins in a folder where an earlier run has left its files, has a run of other settings meet a fault there,
and runs it again with resume=true. After the fault the earlier files or the new ones are there, whole, with their own
record, and a process that the fault leaves alive ends with one line. After the second run the files are those of a run
that met no fault, byte for byte, and nothing else is left.

The processes are forks of this one, in which torch is loaded: a trial takes a second or two, not ten.
"""

import errno
import hashlib
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

from tests import tiny
from utils import resume

DATA = tiny.DATA


@dataclass
class Stage:
    """A script with its keys, those that were others in the earlier run, and what it writes: the file, its record."""

    script: str
    keys: dict
    earlier: dict
    output: str
    record: str | None


STAGES = [
    Stage("save_attention", {"batch_tokens": 128}, {"include_self": True}, "out.pkl", "out.json"),
    Stage("contrast_attention", {"operation": "log_ratio"}, {"operation": "difference"}, "out.pkl", "out.json"),
    Stage("data_augmentation", {"seed": 1}, {"seed": 2}, "data_augmented/out.csv", "data_augmented/out.json"),
    Stage("train", {}, {}, "out/checkpoint-6/adapter_model.safetensors", None),
    Stage("evaluate", {"seed": 1}, {"seed": 2}, "out/predictions.csv", "out/metrics.json"),
]


def keys_of(stage: Stage, base: Path) -> dict:
    """All keys of a stage's command line; `base` holds the model."""
    model, texts = {"model": base / "model"}, {"dataset": "texts.csv"}
    every = {
        "save_attention": model | texts | {"save_name": "out"},
        "contrast_attention": {"attn_dump_large": "large", "attn_dump_small": "small", "attn_diff": "out"},
        "data_augmentation": model
        | texts
        | {"save_name": "out", "augment_type": "attention", "alpha": 0.7, "beta": 0.05}
        | {"multiply": 3, "attn_weights": "small"},
        "train": model
        | texts
        | {"model_dir": "out", "trainer.max_steps": 6, "trainer.save_strategy": "steps", "+trainer.save_steps": 2}
        | {"trainer.per_device_train_batch_size": 2, "quant": "null"},
        "evaluate": model
        | texts
        | {"examples": "texts.csv", "prompts": DATA / "prompts_statements.csv"}
        | {"people": 3, "shots": 1, "output_dir": "out", "dtype": "float32"},
    }
    return every[stage.script] | stage.keys


@dataclass
class Fault:
    """What happens to a run: at its step of that number on the disk, or after so many seconds."""

    kind: str
    step: int = -1
    seconds: float | None = None
    limit: int | None = None


SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGHUP": signal.SIGHUP, "SIGINT": signal.SIGINT}
ERRORS = {"full disk": errno.ENOSPC, "read-only": errno.EROFS}
KINDS = [*SIGNALS, *ERRORS, "file too large", "folder gone", "second run"]

WRITES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


class Steps:
    """Python's audit hook: counts the steps that write in the folder, and does the fault's work at one of them."""

    def __init__(self, folder: Path, fault: Fault | None):
        self.folder, self.fault, self.count, self.broken = str(folder), fault, 0, False

    def __call__(self, event: str, arguments: tuple) -> None:
        if event not in WRITES or not isinstance(arguments[0], (str, os.PathLike)):
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        path = os.fspath(arguments[0])
        if os.path.isabs(path) and not path.startswith(self.folder):  # noqa: PTH117 - called for every file
            return
        self.count += 1
        if self.fault is None:
            return
        if self.count == self.fault.step:
            if self.fault.kind in SIGNALS:
                os.kill(os.getpid(), SIGNALS[self.fault.kind])
            elif self.fault.kind == "second run":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif self.fault.kind == "folder gone":
                shutil.rmtree(self.folder, ignore_errors=True)
        if self.fault.kind in ERRORS and self.count >= self.fault.step:
            code = ERRORS[self.fault.kind]
            raise OSError(code, os.strerror(code), path)


@dataclass
class Run:
    """A forked process with a script in it."""

    process: int
    readers: list[threading.Thread]
    said: list[str]

    def ended(self) -> int:
        """Its exit code, or minus the signal that killed it."""
        deadline = time.monotonic() + 60
        while True:
            found, status = os.waitpid(self.process, os.WNOHANG)
            if found:
                break
            if time.monotonic() > deadline:
                os.kill(self.process, signal.SIGKILL)
            time.sleep(0.005)
        for reader in self.readers:
            reader.join()
        return os.waitstatus_to_exitcode(status)

    def lines(self) -> list[str]:
        """What it said on stderr beside progress bars."""
        lines = self.said[0].replace("\r", "\n").split("\n")
        return [line for line in lines if line.strip() and not re.search(r"\d%\||it/s\]|s/it\]", line)]


def start(folder: Path, stage: Stage, keys: dict, fault: Fault | None = None, steps: Path | None = None) -> Run:
    """Fork, and run the stage's script in the folder; its steps on the disk are counted into the file `steps`."""
    module = importlib.import_module(stage.script)
    from_child, to_parent = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.chdir(folder)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(to_parent, 2)
            os.close(from_child)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
            sys.argv = [f"{stage.script}.py", *(f"{key}={value}" for key, value in keys.items())]
            hook = Steps(folder, fault)
            if fault and fault.limit:
                resource.setrlimit(resource.RLIMIT_FSIZE, (fault.limit, fault.limit))
            sys.addaudithook(hook)
            try:
                module.main()
                code = 0
                for number in SIGNALS.values():  # a script's process would be gone now
                    if number != signal.SIGKILL:
                        signal.signal(number, signal.SIG_IGN)
            except SystemExit as ended:
                code = ended.code or 0
            if steps:
                steps.write_text(str(hook.count))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(to_parent)
    said = [""]

    def read() -> None:
        with open(from_child, encoding="utf-8", errors="replace") as opened:
            said[0] = opened.read()

    reader = threading.Thread(target=read)
    reader.start()
    return Run(process, [reader], said)


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class Ready:
    """A stage that can be tried: the folder where an earlier run has been, what its file and the new one are, and how
    many steps on the disk and seconds a run without faults takes."""

    folder: Path
    earlier: str | None
    new: str
    steps: int
    seconds: float
    largest: int


def ready(stage: Stage, base: Path) -> Ready:
    folder = base / stage.script
    shutil.copytree(base / "inputs", folder)
    keys, earlier = keys_of(stage, base), None
    if stage.earlier:
        done = start(folder, stage, keys | stage.earlier)
        assert done.ended() == 0, done.said
        earlier = file_hash(folder / stage.output)
    trial = base / "unbroken"
    shutil.copytree(folder, trial)
    began = time.monotonic()
    done = start(trial, stage, keys, steps=base / "steps")
    assert done.ended() == 0, done.said
    seconds = time.monotonic() - began
    largest = max(path.stat().st_size for path in trial.rglob("*") if path.is_file())
    found = Ready(folder, earlier, file_hash(trial / stage.output), int((base / "steps").read_text()), seconds, largest)
    assert found.new != earlier
    shutil.rmtree(trial)
    return found


def trial(stage: Stage, at: Ready, base: Path, fault: Fault) -> tuple[str, list[str]]:
    """How the run ended, and what is wrong with what it left."""
    folder = base / "trial"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(at.folder, folder)
    keys, wrong = keys_of(stage, base), []
    resumed = keys | ({"resume": "true"} if "resume" in importlib.import_module(stage.script).RULES else {})
    run = start(folder, stage, keys, fault)
    if fault.kind == "second run":
        wrong += second_run(run, folder, stage, resumed)
    elif fault.seconds is not None:
        time.sleep(fault.seconds)
        os.kill(run.process, SIGNALS[fault.kind])
    code = run.ended()
    lines = run.lines()
    if "Traceback" in run.said[0]:
        wrong.append(f"a traceback: {lines[-1]}")
    elif code in (2, 130) and len(lines) != 1:
        wrong.append(f"{len(lines)} lines: {lines}")
    elif code not in (0, 2, 130, *(-number for number in SIGNALS.values())):
        wrong.append(f"exit code {code}: {lines}")
    how = {0: "finished", 2: "one line", 130: "stopped"}.get(code, "killed")
    if fault.kind == "folder gone" and not (folder / "texts.csv").exists():
        return how, wrong  # nothing is left to look at

    wrong += [f"after the fault: {what}" for what in unsound(stage, folder, (at.earlier, at.new))]
    again = start(folder, stage, resumed)
    if again.ended() != 0:
        wrong.append(f"the next run failed: {again.lines()}")
    wrong += [f"after the next run: {what}" for what in unsound(stage, folder, (at.new,))]
    wrong += [f"left: {path.relative_to(folder)}" for path in folder.rglob(".*")]
    return how, wrong


def unsound(stage: Stage, folder: Path, allowed: tuple) -> list[str]:
    output = folder / stage.output
    if not output.exists():
        return [] if None in allowed else [f"{stage.output} is gone"]
    found = file_hash(output)
    if stage.record is None:  # a checkpoint, which may be half written where none is finished
        if None in allowed:
            return []
        checkpoints = output.parent.parent.glob("checkpoint-*")
        broken = [lacks for path in checkpoints if (lacks := resume.fault(path, 1))]
        return broken + ([] if found in allowed else ["other weights"])
    wrong = [] if found in allowed else [f"{stage.output} is neither the earlier one nor the new one"]
    if (folder / stage.record).exists():
        if json.loads((folder / stage.record).read_text())["sha256"] != found:
            wrong.append(f"{stage.record} is of another run")
    elif len(allowed) == 1:
        wrong.append(f"{stage.record} is gone")
    return wrong


def second_run(first: Run, folder: Path, stage: Stage, keys: dict) -> list[str]:
    """Start another run of that name while the first stands still, and then let that go on."""
    while True:
        found, status = os.waitpid(first.process, os.WNOHANG | os.WUNTRACED)
        if found:
            break
        time.sleep(0.005)
    assert os.WIFSTOPPED(status), first.said
    claimed = any(folder.rglob(".*.kept/lock"))
    second = start(folder, stage, keys)
    code = second.ended()
    os.kill(first.process, signal.SIGCONT)
    refused = code == 2 and len(second.lines()) == 1 and "another run is writing" in second.lines()[0]
    return [] if refused or (code == 0 and not claimed) else [f"the second run ended with {code}: {second.lines()}"]


def faults(at: Ready, count: int, draw: random.Random):
    """So many faults of a stage: of each kind alike, at steps that are spread over its run, or at random times."""
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        step = draw.randint(2, at.steps)  # The first is Hydra's own, before the script begins.
        if kind == "file too large":
            yield Fault(kind, limit=draw.randint(100, at.largest))
        elif kind in SIGNALS and draw.random() < 0.4:
            yield Fault(kind, seconds=draw.uniform(0, at.seconds))
        else:
            yield Fault(kind, step=step)


def main(count: int = 225, seed: int = 1, only: str = "") -> int:
    draw = random.Random(seed)
    began, broken = time.monotonic(), 0
    ends: dict[str, Counter] = {}
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        base = Path(name)
        prepare(base)
        tried = [stage for stage in STAGES if only in ("", stage.script)]
        for stage in tried:
            at = ready(stage, base)
            for fault in faults(at, count // len(tried), draw):
                how, wrong = trial(stage, at, base, fault)
                ends.setdefault(stage.script, Counter())[how] += 1
                ends.setdefault(fault.kind, Counter())[how] += 1
                for what in wrong:
                    print(f"{stage.script}, {fault}: {what}", flush=True)
                broken += bool(wrong)
    hows = ("finished", "one line", "stopped", "killed")
    print(f"{'':20}" + "".join(f"{how:>10}" for how in hows))
    for row, counted in ends.items():
        print(f"{row:20}" + "".join(f"{counted[how]:>10}" for how in hows))
    total = sum(sum(counted.values()) for counted in ends.values()) // 2  # by stage, and by kind
    print(f"{total} faults in {time.monotonic() - began:.0f} s; after {broken} something was wrong")
    return int(broken > 0)


def prepare(base: Path) -> None:
    """A model, and a folder with texts and two dumps."""
    import data_augmentation
    import save_attention

    data_augmentation.CHUNK_CHARACTERS = save_attention.CHUNK_CHARACTERS = 400
    tiny.save(base / "model", "llama")
    tiny.save(base / "other", "llama", seed=5)
    inputs = base / "inputs"
    inputs.mkdir()
    lines = (DATA / "biography_real.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (inputs / "texts.csv").write_text("".join(lines[:11]), encoding="utf-8")
    for name, model in (("small", "model"), ("large", "other")):
        keys = keys_of(STAGES[0], base) | {"save_name": name, "model": base / model}
        done = start(inputs, STAGES[0], keys)
        assert done.ended() == 0, done.said


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:3]), *sys.argv[3:]))
