"""How many steps of training make a number of tokens, or of epochs, of these texts (rule budget).

Writes one line: "<steps> <steps between checkpoints> <tokens a text> <texts a step>", in which each window of a long
text is a text.

Token-dropout changes how many tokens a text has. So that all arms of a table are trained on the same number of tokens,
an arm with shorter texts takes more steps, and so does one with few texts: what is left over at the end of an epoch is
a step of fewer texts. In epochs the arm with more texts takes more steps.
"""

import math
from pathlib import Path

from utils import biography, tokens, windows
from utils.artifacts import whole_file
from utils.model_source import context, load_config
from utils.tokenizer import load_tokenizer
from workflow.logs import logged


def steps_an_epoch(texts: int, batch: int, accumulated: int = 1, processes: int = 1) -> int:
    """A step has `accumulated` batches of each process, an epoch's last step what is left."""
    return math.ceil(math.ceil(texts / (batch * processes)) / accumulated)


def texts_in_step(texts: int, batch: int, accumulated: int = 1, processes: int = 1) -> float:
    """On average over an epoch of `texts` texts. Several processes fill their last batches up with texts that they have
    had."""
    seen = texts if processes == 1 else math.ceil(texts / (batch * processes)) * batch * processes
    return seen / steps_an_epoch(texts, batch, accumulated, processes)


def steps_for(tokens_to_see: int, tokens_a_text: float, texts_a_step: float, checkpoints: int) -> tuple[int, int]:
    """(steps, steps between checkpoints): the nearest multiple of `checkpoints` steps, one each at least."""
    each = max(1, round(tokens_to_see / (tokens_a_text * texts_a_step * checkpoints)))
    return each * checkpoints, each


def steps_for_epochs(epochs: int, an_epoch: int, checkpoints: int) -> tuple[int, int]:
    """(steps, steps between checkpoints); each checkpoint ends an epoch, since `checkpoints` divides the epochs."""
    return epochs * an_epoch, epochs // checkpoints * an_epoch


def lengths(model: str, texts: str, window: int | None, stride: int | None) -> list[int]:
    """How many tokens each text has that train.py makes of the file's: a long one's windows."""
    plain = [text for text, _ in biography.read(texts)]
    encoded = tokens.encode(load_tokenizer(model), plain, prepend_bos="tokenizer")
    window = windows.size(window, context(load_config(model)), model)
    return [len(cut.places) for encoded_text in encoded for cut in windows.windows(encoded_text, window, stride)]


def main(model: str, texts: str, output: str, budget: dict) -> None:
    """budget: what is `seen` ({"tokens": n} or {"epochs": n}), the `checkpoints`, train.py's `window` and `stride`, and
    what makes a `step`: steps_an_epoch's arguments."""
    found = lengths(model, texts, budget["window"], budget["stride"])
    tokens_a_text = sum(found) / len(found)
    texts_a_step = texts_in_step(len(found), **budget["step"])
    if "epochs" in budget["seen"]:
        an_epoch = steps_an_epoch(len(found), **budget["step"])
        steps, each = steps_for_epochs(budget["seen"]["epochs"], an_epoch, budget["checkpoints"])
    else:
        steps, each = steps_for(budget["seen"]["tokens"], tokens_a_text, texts_a_step, budget["checkpoints"])
    with whole_file(Path(output)) as aside:
        aside.write_text(f"{steps} {each} {tokens_a_text:.2f} {texts_a_step:.2f}\n")


if __name__ == "__main__":
    with logged(snakemake.log[0]):
        main(snakemake.params.model, snakemake.input.texts, snakemake.output[0], snakemake.params.budget)
