"""Stage 2: dump of the large model, dump of the small one -> dump of their differences.

    python contrast_attention.py \\
      +attn_dump_large=attn_dump_llama_3_70b +attn_dump_small=attn_dump_llama_3_8b \\
      +attn_diff=attn_diff_llama_70b_8b
"""

from utils.config import file_name, one_of, path, script
from utils.errors import InputError

RULES = {
    "attn_dump_large": path(),
    "attn_dump_small": path(),
    "attn_diff": file_name(),
    "operation": one_of("difference", "log_ratio"),
    "target": one_of("small", "large"),
}


@script("contrast_attention", RULES, writes=["attn_diff"])
def main(config):
    from omegaconf import OmegaConf

    from utils import artifacts, attention_dump
    from utils.contrast import contrast

    inputs = [config.attn_dump_large, config.attn_dump_small]
    files = {attention_dump.dump_path(name).resolve() for name in (*inputs, config.attn_diff)}
    if len(files) < 3:
        raise InputError("attn_dump_large, attn_dump_small and attn_diff must be three different files")
    dump_path = attention_dump.dump_path(config.attn_diff)
    with artifacts.claimed("attn_diff", dump_path, dump_path.with_suffix(".json")):
        large = attention_dump.read_dump(config.attn_dump_large)
        small = attention_dump.read_dump(config.attn_dump_small)
        dump = contrast(large, small, config.operation, config.target)
        attention_dump.write(dump, config.attn_diff, artifacts.record(OmegaConf.to_container(config)))
    if large.settings.get("quant") != small.settings.get("quant"):
        print(f"The weights differ in kind: quant is {large.settings.get('quant')} and {small.settings.get('quant')}")
    if large.tokenizer != small.tokenizer:
        print(f"The tokenizers differ: projected by characters onto the tokens of {config.target} (beyond the paper)")
    print(f"{dump_path}: {len(dump.text_sha256)} texts, {dump.model}")


if __name__ == "__main__":
    main()
