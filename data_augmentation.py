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

from pathlib import Path

from utils import artifacts, attention_dump, biography
from utils.config import boolean, file, integer, model, number, one_of, optional, script, text
from utils.errors import InputError

RULES = {
    "augment_type": one_of("random", "attention"),
    "alpha": number(0, 1),
    "beta": optional(number(0)),
    "multiply": integer(1),
    "attn_weights": optional(text()),
    "model": model(),
    "dataset": file(),
    "save_name": text(),
    "seed": integer(0),
    "blank": one_of("spaces", "collapse"),
    "include_original": boolean(),
    "trust_remote_code": boolean(),
}

# Texts tokenized at a time: enough for the tokenizer's threads, few enough to stay small.
CHUNK = 1000


@script("data_augmentation", RULES)
def main(config):
    guided = config.augment_type == "attention"
    for key in ("beta", "attn_weights") if guided else ():
        if config[key] is None:
            raise InputError(f"augment_type=attention needs {key}=...")
    for key in ("beta", "attn_weights") if not guided else ():
        if config[key] is not None:
            raise InputError(f"{key} has no meaning for augment_type=random; leave it out")

    texts = [biography.strip_tags(tagged) for tagged in biography.read_texts(config.dataset)]
    weights = attention_dump.read(config.attn_weights) if guided else None
    if guided:
        attention_dump.check_texts(weights, texts, config.attn_weights, config.dataset)

    # transformers takes seconds to import: only once the input is known to be good.
    import csv

    import numpy as np
    from omegaconf import OmegaConf

    from utils import dropout, tokens
    from utils.contrast import weights_of

    tokenizer = tokens.load_tokenizer(config.model, config.trust_remote_code)
    if isinstance(weights, attention_dump.Dump) and weights.tokenizer != tokens.fingerprint(tokenizer):
        print(f"{config.attn_weights} is of another tokenizer: projected by characters onto {config.model}'s tokens")

    characters = blanked = written = 0
    path = Path("data_augmented") / f"{config.save_name}.csv"
    with artifacts.whole_file(path) as aside, open(aside, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(["text"])
        for first in range(0, len(texts), CHUNK):
            chunk = texts[first : first + CHUNK]
            encoded_chunk = tokens.encode(tokenizer, chunk, "tokenizer")
            for row, (plain, encoded) in enumerate(zip(chunk, encoded_chunk, strict=True), start=first):
                if guided:
                    keep = dropout.keep_by_rank(weights_of(weights, row, encoded), config.alpha, config.beta)
                else:
                    keep = dropout.keep_all_alike(len(encoded.offsets), config.alpha)
                keep[encoded.special] = 1.0
                # A row's draws depend on the seed and its number alone, not on the rows before it.
                generator = np.random.default_rng([config.seed, row])
                for variant in dropout.variants(plain, encoded.offsets, keep, config.multiply, generator):
                    characters += len(plain) - plain.count(" ")
                    blanked += variant.count(" ") - plain.count(" ")
                    written += 1
                    writer.writerow([dropout.collapse(variant) if config.blank == "collapse" else variant])
                if config.include_original:
                    written += 1
                    writer.writerow([plain])
    artifacts.write_json(path.with_suffix(".json"), artifacts.record(OmegaConf.to_container(config)))
    print(f"{path}: {written} rows of {len(texts)} texts, {blanked / characters:.1%} of the characters blanked")


if __name__ == "__main__":
    main()
