"""Stage 2: dump of the large model, dump of the small one -> dump of their differences.

    python contrast_attention.py \\
      attn_dump_large=attn_dump_llama_3_70b attn_dump_small=attn_dump_llama_3_8b \\
      attn_diff=attn_diff_llama_70b_8b
"""

import time

from omegaconf import OmegaConf

from utils import artifacts, attention_dump, biography, heatmap, next_stage, rules
from utils.contrast import contrast
from utils.errors import InputError
from utils.script import script

RULES = {
    "attn_dump_large": rules.path(),
    "attn_dump_small": rules.path(),
    "attn_diff": rules.file_name(),
    "operation": rules.one_of("difference", "log_ratio"),
    "target": rules.one_of("small", "large"),
    "dataset": rules.optional(rules.file(or_folder=True)),
    "text_column": rules.text(),
    "tags": rules.one_of("auto", True, False),
    "heatmap": rules.optional(rules.picture()),
}


@script("contrast_attention", RULES, writes=["attn_diff"], several_processes=False)
def main(config):
    started = time.monotonic()
    inputs = [config.attn_dump_large, config.attn_dump_small]
    files = {artifacts.real_path(attention_dump.dump_path(name)) for name in (*inputs, config.attn_diff)}
    if len(files) < 3:
        raise InputError("attn_dump_large, attn_dump_small and attn_diff must be three different files")
    if config.heatmap:
        if config.dataset is None:
            raise InputError("heatmap: a dump does not hold its texts; add dataset=...")
        heatmap.check(config.heatmap, config.dataset)
    dump_path = attention_dump.dump_path(config.attn_diff)
    with artifacts.claimed("attn_diff", dump_path, dump_path.with_suffix(".json"), dataset=config.dataset):
        large = attention_dump.read_dump(config.attn_dump_large)
        small = attention_dump.read_dump(config.attn_dump_small)
        if config.dataset is not None:
            texts = [plain for plain, _ in biography.read(config.dataset, config.text_column, config.tags)]
            for name, side in zip(inputs, (large, small), strict=True):
                attention_dump.check_texts(side, texts, name, config.dataset)
        dump = contrast(large, small, config.operation, config.target)
        attention_dump.write(dump, config.attn_diff, artifacts.record(OmegaConf.to_container(config)))
    quants = large.settings.get("quant"), small.settings.get("quant")
    if quants[0] != quants[1]:
        print("The models are quantized differently: {} (large), {} (small)".format(*quants))
    if large.tokenizer != small.tokenizer:
        print(
            f"The tokenizers differ: values mapped by character position onto the tokens of {config.target} (not in the"
            " paper)"
        )
    if not dump.values.any():
        print("The values of both are the same: the result is 0 everywhere, and ranks tokens in the texts' order")
    print(f"{dump_path}: {len(dump.text_sha256)} texts, {dump.model}")
    if config.heatmap:
        heatmap.write(config.heatmap, dump.model, heatmap.shaded_rows(texts, dump.rows), len(texts), two_sided=True)
    next_stage.announce(
        started,
        "data_augmentation",
        augment_type="attention",
        alpha=0.7,
        beta=0.05,
        multiply=10,
        attn_weights=config.attn_diff,
        # Its tokens are those of the difference.
        model=large.model if config.target == "large" else small.model,
        dataset=config.dataset or "DATASET",
        **(next_stage.dataset_keys(config) if config.dataset else {}),
        save_name="NAME",
    )


if __name__ == "__main__":
    main()
