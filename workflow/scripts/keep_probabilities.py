"""One text's keep-probabilities, token by token, under each arm of a table (rule keep_probabilities)."""

from pathlib import Path

import numpy as np

from utils import biography, dropout, tokens
from utils.artifacts import write_json
from utils.attention_dump import read_dump
from utils.contrast import weights_of
from utils.tokenizer import load_tokenizer
from workflow.logs import logged
from workflow.table import augmentation_of, dump_of, shown_by


def keep_probabilities(config: dict, folder: str) -> dict:
    """{"settings": what was asked for, "tokens": the first text's tokens, "arms": {arm: keep-probability of each}};
    `folder` holds the dumps."""
    plain, _ = next(biography.read(config["dataset"]))
    tokenizer = load_tokenizer(config["trained"])
    encoded = tokens.encode(tokenizer, [plain], "tokenizer")
    offsets, bounds = tokens.concatenate(encoded)
    codes = np.frombuffer(plain.encode("utf-32-le"), dtype=np.uint32)
    stays = dropout.always_stay(codes, offsets) | encoded[0].special
    arms = {}
    for arm in config["arms"]:
        dump = dump_of(config, arm, config["seeds"][0])
        keys = {"alpha": 1.0, "rank_unit": "token"} | augmentation_of(config, arm)
        if dump:
            weights = weights_of(read_dump(f"{folder}/{dump}"), 0, encoded)
            keep = dropout.keep_by_rank(weights, bounds, keys["alpha"], keys["beta"], keys["rank_unit"])
        else:
            keep = dropout.keep_all_alike(len(offsets), keys["alpha"])
        arms[arm] = np.where(stays, 1.0, keep).round(4).tolist()
    shown = [plain[start:end] for start, end in offsets]
    if config.get("made_by"):
        # The text is not committed, so its words are not either: their places stand for them.
        shown = [str(place) for place in range(len(shown))]
    return {"settings": shown_by(config), "tokens": shown, "arms": arms}


if __name__ == "__main__":
    with logged(snakemake.log[0]):
        kept = keep_probabilities(snakemake.params.config, snakemake.params.dumps)
        write_json(Path(snakemake.output[0]), kept)
