"""Stage 1: texts + model -> attention dump.

    python save_attention.py +model=meta-llama/Meta-Llama-3-8B \\
      +dataset=data/biography_real.csv +save_name=attn_dump_llama_3_8b

Several processes share the work: torchrun --nproc-per-node 2 save_attention.py ... gives the same dump.
"""

from utils import artifacts, attention_dump, biography
from utils.config import boolean, dtype, file, integer, mapping, model, one_of, optional, path, script

RULES = {
    "model": model(),
    "dataset": file(),
    "save_name": path(),
    "dtype": dtype(),
    "quant": optional(mapping()),
    "trust_remote_code": boolean(),
    "include_self": boolean(),
    "prepend_bos": one_of("auto", True, False),
    "batch_tokens": integer(1),
}


@script("save_attention", RULES, writes=["save_name"])
def main(config):
    dump_path = attention_dump.dump_path(config.save_name)
    artifacts.check_writable("save_name", dump_path, dump_path.with_suffix(".json"))
    texts = [biography.strip_tags(tagged) for tagged in biography.read_texts(config.dataset)]

    # torch and transformers take seconds to import: only once the input is known to be good.
    from omegaconf import OmegaConf

    from utils import received_attention, tokens
    from utils.models import load_model
    from utils.processes import gathered, is_main_process, my_share, progress

    # Prepare model
    tokenizer = tokens.load_tokenizer(config.model, config.trust_remote_code)
    language_model = load_model(config.model, config.dtype, config.quant, config.trust_remote_code)
    receive = received_attention.ReceivedAttention(language_model, config.include_self)

    # Prepare data
    encoded = tokens.encode(tokenizer, texts, config.prepend_bos)
    tokens.check_texts(encoded, language_model, config.dataset)
    batches = received_attention.batches([len(text.input_ids) for text in encoded], config.batch_tokens)

    # Read attention
    values = {}
    for batch in progress("attention", my_share(batches)):
        received = receive.texts([encoded[index].input_ids for index in batch])
        for index, of_text in zip(batch, received, strict=True):
            values[index] = of_text[encoded[index].positions]
    values = gathered(values)
    if not is_main_process():
        return

    # Save
    dump = attention_dump.Dump.of(
        model=config.model,
        tokenizer=tokens.fingerprint(tokenizer),
        settings={
            "include_self": config.include_self,
            # What was fed, whoever put it there: a dump with a special token first compares with any other such.
            "prepend_bos": all(0 not in text.positions for text in encoded),
            "dtype": str(language_model.dtype).removeprefix("torch."),
        },
        rows=[
            attention_dump.Row(attention_dump.text_hash(text), values[index], encoded[index].offsets)
            for index, text in enumerate(texts)
        ],
    )
    attention_dump.write(dump, config.save_name)
    artifacts.write_json(dump_path.with_suffix(".json"), artifacts.record(OmegaConf.to_container(config)))
    print(f"{dump_path}: {len(texts)} texts, {sum(map(len, values.values())):,} tokens of {config.model}")


if __name__ == "__main__":
    main()
