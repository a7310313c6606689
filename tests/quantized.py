"""A script of this project with 8 or 4 bit on a processor, by bitsandbytes' own backend for it.

    python -m tests.quantized train model_dir=out ...

Without a GPU the scripts leave `quant` out; here it is applied all the same, so that what a GPU would do is tried.
"""

import importlib
import sys

from utils import models

if __name__ == "__main__":
    models.can_quantize = lambda: True
    importlib.import_module(sys.argv.pop(1)).main()
