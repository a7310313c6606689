"""Each stage beside the plain way, in one run, alternating: ratios of medians, their spread, and peak memory.

    make bench            (QUICK=1 for smaller inputs and fewer repeats)

Answers are compared as well, and a difference ends the run. `--small` and `--large` name the folders of other models
than the two that `make models` fetches; the goals in README.md are for these two.
"""

import argparse
import os
import platform
import re
import tempfile
import time
from pathlib import Path

# Both ways run on the processor, on a machine with a GPU as well; that one has gpu.py.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# As in the scripts (utils.runtime.wait_briefly); where both ways run in this process, the plain one has it as well.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch

from benchmarks import contrast, dropout, evaluation, extraction, scripts, training
from benchmarks.timing import ROOT, fastest_dtype, product_rates, row
from utils.runtime import use_huge_pages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller inputs, fewer repeats")
    parser.add_argument("--small", default=str(ROOT / "models/smollm2-135m"), help="a model's folder")
    parser.add_argument("--large", default=str(ROOT / "models/gemma3-270m"), help="another's, with another tokenizer")
    arguments = parser.parse_args()
    # As in the scripts; where both ways run in this process, the plain one has them as well.
    use_huge_pages()
    started = time.monotonic()
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    rates = ", ".join(f"{rate:,.0f} GFLOP/s in {dtype}" for dtype, rate in product_rates().items())
    print(f"Products of 2,048 x 576 by 576 x 1,536: {rates}; so the models run in {fastest_dtype()}\n")
    row("stage", "the plain way", "ours", "ratio of medians (spread)")
    row(*["---"] * 4)
    models = {"small": arguments.small, "large": arguments.large}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for file in (contrast, dropout, extraction, evaluation, training, scripts):
            for stage in file.STAGES:
                stage(models, arguments.quick)
    print(f"\n{(time.monotonic() - started) / 60:.1f} minutes")


def processor() -> str:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
