"""Stage 3: texts (+ weights) -> variants of the texts, with tokens dropped at random.

    python data_augmentation.py \\
      augment_type=random alpha=0.7 multiply=10 \\
      model=meta-llama/Meta-Llama-3-8B \\
      dataset=data/biography_real.csv save_name=biography_real_aug

    python data_augmentation.py \\
      augment_type=attention alpha=0.7 beta=0.05 multiply=10 \\
      attn_weights=attn_diff_llama_70b_8b \\
      model=meta-llama/Meta-Llama-3-8B \\
      dataset=data/biography_real.csv save_name=biography_real_aug
"""

import csv
import hashlib
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from utils import artifacts, attention_dump, biography, dropout, heatmap, next_stage, rules, texts, tokens
from utils.contrast import weights_of
from utils.errors import InputError
from utils.kept import Kept, made_by
from utils.progress import bar
from utils.script import script
from utils.tokenizer import fingerprint, load_tokenizer

RULES = {
    "augment_type": rules.one_of("random", "attention"),
    "alpha": rules.number(0, 1),
    "beta": rules.optional(rules.number(0)),
    "rank_unit": rules.one_of("token", "percent"),
    "multiply": rules.integer(1),
    "attn_weights": rules.optional(rules.path()),
    "model": rules.tokenizer(),
    "dataset": rules.file(or_folder=True),
    "text_column": rules.text(),
    "tags": rules.one_of("auto", True, False),
    "save_name": rules.file_name(),
    "seed": rules.integer(0),
    "blank": rules.one_of("spaces", "delete", "collapse"),
    "include_original": rules.boolean(),
    "trust_remote_code": rules.boolean(),
    "heatmap": rules.optional(rules.picture()),
    "resume": rules.boolean(),
}

# At a time: enough for the tokenizer's threads and numpy's calls, few enough to stay small.
CHUNK_CHARACTERS = 200_000


@script("data_augmentation", RULES, writes=["save_name"], several_processes=False)
def main(config):
    started = time.monotonic()
    check_guidance(config)
    # The name of the file, or its path as it is printed.
    name = config.save_name.removeprefix("data_augmented/").removesuffix(".csv")
    output = Path("data_augmented") / f"{name}.csv"
    if config.heatmap:
        heatmap.check(config.heatmap, config.dataset)
    with artifacts.claimed("save_name", output, output.with_suffix(".json"), dataset=config.dataset) as folder:
        augment(config, output, folder)
    # A text may hold what looks like a tag.
    as_text = {"tags": False} if config.tags is False else {}
    next_stage.announce(started, "train", model=config.model, dataset=str(output), **as_text, model_dir="MODEL_DIR")


def augment(config: Mapping, output: Path, folder: Path) -> None:
    """The stage itself; `folder` is for what it keeps until the file is whole."""
    guided = config.augment_type == "attention"
    # The input is read twice, once to check it, so that however long it is it never lies in memory.
    weights = attention_dump.read(config.attn_weights) if guided else None
    texts_hash = hashlib.sha256()
    plain = hashed(read_plain(config), texts_hash)
    if guided:
        count = attention_dump.check_texts(weights, plain, config.attn_weights, config.dataset)
    else:
        count = sum(1 for _ in plain)

    tokenizer = load_tokenizer(config.model, config.trust_remote_code)
    own_fingerprint = fingerprint(tokenizer)
    if isinstance(weights, attention_dump.Dump) and weights.tokenizer != own_fingerprint:
        mapped = f"values mapped by character position onto the tokens of {config.model}"
        print(f"{config.attn_weights} was made with another tokenizer: {mapped}")

    settings = OmegaConf.to_container(config)
    drawn_with = {"texts_sha256": texts_hash.hexdigest(), "tokenizer": own_fingerprint}
    if guided:
        drawn_with["weights_sha256"] = artifacts.file_hash(attention_dump.dump_path(config.attn_weights))
    kept = Kept(folder, made_by(settings, **drawn_with))
    unfinished = folder / "variants.csv"
    so_far, digest = begun(kept.read(config.resume), unfinished)
    shown = bar(read_plain(config), total=count, desc="texts")
    for first, chunk in texts.chunks(shown, CHUNK_CHARACTERS):
        if first < so_far["texts"]:
            continue
        encoded = tokens.encode(tokenizer, chunk, "tokenizer")
        offsets, bounds = tokens.concatenate(encoded)
        keep = keep_probabilities(config, weights, first, encoded)
        # A chunk's draws depend on the seed and its place alone, not on the chunks before it.
        generator = np.random.default_rng([config.seed, first])
        delete = config.blank == "delete"
        variants, dropped = dropout.variants(chunk, offsets, bounds, keep, config.multiply, generator, delete)
        so_far["tokens_drawn"] += len(offsets) * config.multiply
        so_far["tokens_dropped"] += dropped
        so_far["characters_drawn"] += sum(len(plain) - plain.count(" ") for plain in chunk) * config.multiply
        so_far["characters_left"] += sum(len(variant) - variant.count(" ") for variant in variants)
        if config.blank == "collapse":
            variants = [dropout.collapse(variant) for variant in variants]
        if config.include_original:
            variants = [
                row
                for index, plain in enumerate(chunk)
                for row in (*variants[index * config.multiply : (index + 1) * config.multiply], plain)
            ]
        so_far["rows"] += len(variants)
        so_far["texts"] = first + len(chunk)
        written = texts.csv_rows(variants, header=first == 0)
        with artifacts.writing(unfinished), open(unfinished, "ab") as opened:
            opened.write(written)
        digest.update(written)
        so_far |= {"bytes": so_far["bytes"] + len(written), "sha256": digest.hexdigest()}
        kept.add(so_far)

    # Of the characters that are no spaces, blanked or deleted; and of all tokens, as they were drawn.
    characters_blanked = (so_far["characters_drawn"] - so_far["characters_left"]) / max(1, so_far["characters_drawn"])
    tokens_dropped = so_far["tokens_dropped"] / max(1, so_far["tokens_drawn"])
    record = artifacts.record(settings) | {"characters_blanked": characters_blanked, "tokens_dropped": tokens_dropped}
    with artifacts.recorded_file(output, record) as aside:
        # Linked, not moved: if the record can't be written, it is still there to resume from.
        aside.unlink(missing_ok=True)
        try:
            aside.hardlink_to(unfinished)
        except OSError:  # a file system without links
            unfinished.replace(aside)
    shares = f"{tokens_dropped:.1%} of the tokens, {characters_blanked:.1%} of the characters"
    print(f"{output}: {so_far['rows']} rows of {count} texts; dropped: {shares}")
    if config.heatmap:
        title = f"{output}: the probability of each token to be kept (commas and full stops always are)"
        heatmap.write(config.heatmap, title, shaded(config, weights, tokenizer, output), count, end=1.0)


def keep_probabilities(config: Mapping, weights, first: int, encoded: list[tokens.Encoded]) -> np.ndarray:
    """float64 [tokens of all texts], of texts number `first` and following; weights: as attention_dump.read gives them,
    None for augment_type=random."""
    offsets, bounds = tokens.concatenate(encoded)
    if config.augment_type == "attention":
        token_weights = weights_of(weights, first, encoded)
        keep = dropout.keep_by_rank(token_weights, bounds, config.alpha, config.beta, config.rank_unit)
    else:
        keep = dropout.keep_all_alike(len(offsets), config.alpha)
    keep[np.concatenate([encoded_text.special for encoded_text in encoded])] = 1.0
    return keep


def shaded(config: Mapping, weights, tokenizer, output: Path) -> Iterator[heatmap.Shaded]:
    """The first texts, with their tokens' keep-probabilities and ranks, and three variants of each from `output`."""
    _, first_texts = next(texts.chunks(read_plain(config), CHUNK_CHARACTERS))
    encoded = tokens.encode(tokenizer, first_texts, "tokenizer")
    bounds = tokens.concatenate(encoded)[1]
    keep = keep_probabilities(config, weights, 0, encoded)
    ranks = dropout.ranks(weights_of(weights, 0, encoded), bounds) if config.augment_type == "attention" else None
    with open(output, newline="", encoding="utf-8") as opened:
        rows = (row for (row,) in itertools.islice(csv.reader(opened), 1, None))
        for plain, encoded_text, (begin, end) in zip(first_texts, encoded, itertools.pairwise(bounds), strict=True):
            variants = list(itertools.islice(rows, config.multiply + config.include_original))[: config.multiply]
            stays = dropout.always_stay(np.frombuffer(plain.encode("utf-32-le"), np.uint32), encoded_text.offsets)
            shown = np.where(stays, 1.0, keep[begin:end])
            ranked = None if ranks is None else ranks[begin:end]
            yield heatmap.Shaded(plain, encoded_text.offsets, shown, ranked, variants[:3])


def begun(kept: list[dict], unfinished: Path) -> tuple[dict, object]:
    """How far an earlier run came with `unfinished`, and the file's hash, after removing rows that were cut short;
    zeros and the hash of nothing if there was no such run or the file is not what it kept."""
    with artifacts.writing(unfinished):
        if kept and unfinished.is_file():
            with open(unfinished, "r+b") as opened:
                opened.truncate(kept[-1]["bytes"])
                digest = hashlib.file_digest(opened, "sha256")
            if digest.hexdigest() == kept[-1]["sha256"]:
                return kept[-1], digest
        unfinished.unlink(missing_ok=True)
    counts = ("texts", "rows", "bytes", "tokens_drawn", "tokens_dropped", "characters_drawn", "characters_left")
    return dict.fromkeys(counts, 0), hashlib.sha256()


def check_guidance(config: Mapping) -> None:
    """Raise InputError if what guides the dropout is missing, or is given and not used."""
    guided = config["augment_type"] == "attention"
    for key in ("beta", "attn_weights"):
        if guided and config.get(key) is None:
            raise InputError(f"augment_type=attention needs {key}=...")
        if not guided and config.get(key) is not None:
            raise InputError(f"{key} has no meaning for augment_type=random; leave it out")
    if not guided and config.get("rank_unit", "token") != "token":
        raise InputError("rank_unit has no meaning for augment_type=random; leave it out")


def read_plain(config: Mapping) -> Iterator[str]:
    return (plain for plain, _ in biography.read(config.dataset, config.text_column, config.tags))


def hashed(plain_texts: Iterable[str], digest) -> Iterator[str]:
    """The texts as they are; `digest`, one of hashlib's, takes them in on the way."""
    for plain in plain_texts:
        digest.update(f"{plain}\0".encode())
        yield plain


if __name__ == "__main__":
    main()
