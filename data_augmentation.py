"""Stage 3: texts (+ weights) -> variants of the texts, with tokens dropped at random.

    python data_augmentation.py \\
      +augment_type=random +alpha=0.7 +multiply=10 \\
      +model=meta-llama/Meta-Llama-3-8B \\
      +dataset=data/biography_real.csv +save_name=biography_real_aug

    python data_augmentation.py \\
      +augment_type=attention +alpha=0.7 +beta=0.05 +multiply=10 \\
      +attn_weights=attn_diff_llama_70b_8b \\
      +model=meta-llama/Meta-Llama-3-8B \\
      +dataset=data/biography_real.csv +save_name=biography_real_aug
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from utils import artifacts, attention_dump, biography
from utils.config import boolean, file, file_name, integer, number, one_of, optional, path, script, tokenizer
from utils.errors import InputError

RULES = {
    "augment_type": one_of("random", "attention"),
    "alpha": number(0, 1),
    "beta": optional(number(0)),
    "multiply": integer(1),
    "attn_weights": optional(path()),
    "model": tokenizer(),
    "dataset": file(),
    "save_name": file_name(),
    "seed": integer(0),
    "blank": one_of("spaces", "delete", "collapse"),
    "include_original": boolean(),
    "trust_remote_code": boolean(),
}

# At a time: enough for the tokenizer's threads and numpy's calls, few enough to stay small.
CHUNK_CHARACTERS = 200_000


@script("data_augmentation", RULES, writes=["save_name"])
def main(config):
    check_guidance(config)
    guided = config.augment_type == "attention"
    output = Path("data_augmented") / f"{config.save_name.removesuffix('.csv')}.csv"
    if output.resolve() == Path(config.dataset).resolve():
        raise InputError(f"save_name={config.save_name}: that is the dataset itself; give another name")
    artifacts.check_writable("save_name", output, output.with_suffix(".json"))

    # The input is read twice, once to check it, so that however long it is it never lies in memory.
    weights = attention_dump.read(config.attn_weights) if guided else None
    if guided:
        count = attention_dump.check_texts(weights, read_plain(config.dataset), config.attn_weights, config.dataset)
    else:
        count = sum(1 for _ in read_plain(config.dataset))

    # transformers takes seconds to import: only once the input is known to be good.
    import csv

    import numpy as np
    from omegaconf import OmegaConf
    from tqdm import tqdm

    from utils import dropout, tokens
    from utils.contrast import weights_of

    tokenizer = tokens.load_tokenizer(config.model, config.trust_remote_code)
    if isinstance(weights, attention_dump.Dump) and weights.tokenizer != tokens.fingerprint(tokenizer):
        print(f"{config.attn_weights} is of another tokenizer: projected by characters onto {config.model}'s tokens")

    characters = left = drawn = dropped = written = 0
    with artifacts.whole_file(output) as aside, open(aside, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(["text"])
        texts = tqdm(read_plain(config.dataset), total=count, desc="texts", dynamic_ncols=True)
        for first, chunk in chunks(texts):
            encoded = tokens.encode(tokenizer, chunk, "tokenizer")
            offsets, bounds = tokens.end_to_end(encoded)
            if guided:
                keep = dropout.keep_by_rank(weights_of(weights, first, encoded), bounds, config.alpha, config.beta)
            else:
                keep = dropout.keep_all_alike(len(offsets), config.alpha)
            keep[np.concatenate([of_text.special for of_text in encoded])] = 1.0
            # A chunk's draws depend on the seed and its place alone, not on the chunks before it.
            generator = np.random.default_rng([config.seed, first])
            delete = config.blank == "delete"
            variants, of_chunk = dropout.variants(chunk, offsets, bounds, keep, config.multiply, generator, delete)
            drawn, dropped = drawn + len(offsets) * config.multiply, dropped + of_chunk
            characters += sum(len(plain) - plain.count(" ") for plain in chunk) * config.multiply
            left += sum(len(variant) - variant.count(" ") for variant in variants)
            if config.blank == "collapse":
                variants = [dropout.collapse(variant) for variant in variants]
            if config.include_original:
                variants = [
                    row
                    for index, plain in enumerate(chunk)
                    for row in (*variants[index * config.multiply : (index + 1) * config.multiply], plain)
                ]
            writer.writerows([variant] for variant in variants)
            written += len(variants)
    # Of the characters that are no spaces, blanked or deleted; and of all tokens, as they were drawn.
    of_characters, of_tokens = (characters - left) / max(1, characters), dropped / max(1, drawn)
    record = artifacts.record(OmegaConf.to_container(config))
    record |= {"characters_blanked": of_characters, "tokens_dropped": of_tokens}
    artifacts.write_json(output.with_suffix(".json"), record)
    shares = f"{of_tokens:.1%} of the tokens, {of_characters:.1%} of the characters"
    print(f"{output}: {written} rows of {count} texts; dropped: {shares}")


def check_guidance(config: Mapping) -> None:
    """Raise InputError where what guides the dropout is missing, or is given and not used."""
    guided = config["augment_type"] == "attention"
    for key in ("beta", "attn_weights"):
        if guided and config.get(key) is None:
            raise InputError(f"augment_type=attention needs {key}=...")
        if not guided and config.get(key) is not None:
            raise InputError(f"{key} has no meaning for augment_type=random; leave it out")


def read_plain(dataset: str) -> Iterator[str]:
    return map(biography.strip_tags, biography.read_texts(dataset))


def chunks(texts: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield each chunk's first text's number, from 0, and its texts; a text of more characters is a chunk by itself."""
    first, chunk, characters = 0, [], 0
    for plain in texts:
        if chunk and characters + len(plain) > CHUNK_CHARACTERS:
            yield first, chunk
            first, chunk, characters = first + len(chunk), [], 0
        chunk.append(plain)
        characters += len(plain)
    if chunk:
        yield first, chunk


if __name__ == "__main__":
    main()
