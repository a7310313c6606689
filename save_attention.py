"""Stage 1: texts + model -> attention dump.

    python save_attention.py +model=meta-llama/Meta-Llama-3-8B \\
      +dataset=data/biography_real.csv +save_name=attn_dump_llama_3_8b

Several processes share the work: torchrun --nproc-per-node 2 save_attention.py ... gives the same dump.
"""

import base64
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils import artifacts, attention_dump, biography, heatmap, next_stage, tokens
from utils.adapters import adapter_base
from utils.config import (
    boolean,
    dtype,
    file,
    file_name,
    integer,
    mapping,
    model,
    one_of,
    optional,
    picture,
    script,
    text_or_mapping,
)
from utils.errors import InputError
from utils.kept import Kept, made_by


def layer_numbers(value: object) -> Sequence[int]:
    try:
        if isinstance(value, Sequence) and not isinstance(value, str) and value:
            return [integer(0)(number) for number in value]
    except ValueError:
        pass
    raise ValueError("must be a list of whole numbers from 0, such as [0,1]")


RULES = {
    "model": model(),
    "dataset": file(),
    "save_name": file_name(),
    "dtype": dtype(),
    "quant": optional(mapping()),
    "device_map": optional(text_or_mapping),
    "max_memory": optional(mapping()),
    "trust_remote_code": boolean(),
    "include_self": boolean(),
    "queries": one_of("following", "before_fields"),
    "layers": optional(layer_numbers),
    "prepend_bos": one_of("auto", True, False),
    "batch_tokens": integer(1),
    "heatmap": optional(picture()),
    "resume": boolean(),
}


@script("save_attention", RULES, writes=["save_name"])
def main(config):
    started = time.monotonic()
    if config.heatmap:
        heatmap.check(config.heatmap, config.dataset)
    dump_path = attention_dump.dump_path(config.save_name)
    with artifacts.claimed("save_name", dump_path, dump_path.with_suffix(".json")) as folder:
        extract(config, dump_path, folder)
    # Of the large model or of the small one: the user knows.
    following = {"attn_dump_large": config.save_name, "attn_dump_small": "SMALL", "attn_diff": "DIFFERENCE"}
    next_stage.say(started, "contrast_attention", **following)


def extract(config: Mapping, dump_path: Path, folder: Path) -> None:
    """The stage itself; `folder` is for what it keeps until the dump is written."""
    tagged = list(biography.read_texts(config.dataset))
    texts = list(map(biography.strip_tags, tagged))

    # torch and transformers take seconds to import: only once the input is known to be good.
    from omegaconf import OmegaConf

    from utils import received_attention
    from utils.models import load_model, weights_hash
    from utils.padding import batches
    from utils.processes import gathered, is_main_process, my_share, of_first, progress

    # Prepare data
    tokenizer = tokens.load_tokenizer(config.model, config.trust_remote_code)
    encoded = tokens.encode(tokenizer, texts, config.prepend_bos)
    queries = before_fields(tagged, encoded, config.dataset) if config.queries == "before_fields" else None
    layers = None if config.layers is None else sorted(set(config.layers))
    if layers is not None:
        check_layers(layers, config.model, config.trust_remote_code)

    # Prepare model
    placed = {"device_map": config.device_map, "max_memory": config.max_memory}
    language_model = load_model(config.model, config.dtype, config.quant, config.trust_remote_code, placed=placed)
    tokens.check_texts(encoded, language_model, config.dataset)
    receive = received_attention.ReceivedAttention(language_model, config.include_self, layers)
    in_batches = batches([len(text.input_ids) for text in encoded], config.batch_tokens)

    # What an earlier run has kept, batch by batch: a batch's values depend on what it is padded to.
    settings = OmegaConf.to_container(config)
    read_with = {
        "texts_sha256": attention_dump.text_hash("\0".join(tagged)),
        "tokenizer": tokens.fingerprint(tokenizer),
        "weights_sha256": weights_hash(language_model),
        "device": language_model.device.type,
    }
    kept = Kept(folder, made_by(settings, **read_with))
    of_before = dict(kept.read(config.resume)) if is_main_process() else {}
    done = of_first(set(of_before))

    # Read attention
    values = {}
    for number in progress("attention", my_share([number for number in range(len(in_batches)) if number not in done])):
        batch = in_batches[number]
        of_batch = None if queries is None else [queries[index] for index in batch]
        received = receive.texts([encoded[index].input_ids for index in batch], of_batch)
        values[number] = [of_text[encoded[index].positions] for index, of_text in zip(batch, received, strict=True)]
        for index, of_text in zip(batch, values[number], strict=True):
            if not np.isfinite(of_text).all():
                raise InputError(
                    f"{config.dataset}: row {index + 1}: the attention of {config.model} is not a number (NaN): its "
                    "training diverged, or dtype=float32 helps"
                )
        kept.add([number, [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in values[number]]])
    values = gathered(values)
    if not is_main_process():
        return
    for number, rows in of_before.items():
        values[number] = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
    of_text = {
        index: row for number, batch in enumerate(in_batches) for index, row in zip(batch, values[number], strict=True)
    }

    # Save
    dump = attention_dump.Dump.of(
        model=config.model,
        tokenizer=tokens.fingerprint(tokenizer),
        settings={
            "include_self": config.include_self,
            # What was fed, whoever put it there: a dump with a special token first compares with any other such.
            "prepend_bos": all(0 not in text.positions for text in encoded),
            "queries": config.queries,
            "layers": layers,
            "dtype": str(language_model.dtype).removeprefix("torch."),
        }
        | ({"quant": OmegaConf.to_container(config.quant)} if getattr(language_model, "is_quantized", False) else {}),
        rows=[
            attention_dump.Row(attention_dump.text_hash(text), of_text[index], encoded[index].offsets)
            for index, text in enumerate(texts)
        ],
    )
    attention_dump.write(dump, config.save_name, artifacts.record(settings))
    print(f"{dump_path}: {len(texts)} texts, {sum(map(len, of_text.values())):,} tokens of {config.model}")
    if config.heatmap:
        title = f"{config.model}: what each token receives of the attention"
        heatmap.write(config.heatmap, title, heatmap.of_rows(texts, dump.rows), len(texts))


def check_layers(layers: list[int], model: str, trust_remote_code: bool) -> None:
    """Raise InputError where the model's configuration has no such layer: its weights may take minutes to load."""
    from transformers import AutoConfig

    source = tokens.source(adapter_base(model) or model)
    try:
        of_model = AutoConfig.from_pretrained(**source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise tokens.cannot_load("configuration", model, error) from error
    count = of_model.get_text_config().num_hidden_layers
    if layers[-1] >= count:
        raise InputError(f"layers={layers}: the model has {count} layers, numbered from 0")


def before_fields(tagged: list[str], encoded: list[tokens.Encoded], dataset: str) -> list[np.ndarray]:
    """For each text where, among its ids, the tokens are that stand just before a tagged field (the name's tag is one):
    of each field the last token that ends where the field begins, or before. A space that is a token by itself counts
    as any other: it is the token from which the model predicts the field's first.

    Raises InputError, naming the row, where there is none.
    """
    found = []
    for row, (with_tags, of_text) in enumerate(zip(tagged, encoded, strict=True), start=1):
        _, fields = biography.field_spans(with_tags)
        before = [np.flatnonzero(of_text.offsets[:, 1] <= start) for start, _ in fields.values()]
        last = sorted({int(tokens_before[-1]) for tokens_before in before if len(tokens_before)})
        if not last:
            raise InputError(
                f"{dataset}: row {row} has no tagged field with text before it, and queries=before_fields looks from "
                "there: tag its fields, or take queries=following"
            )
        found.append(of_text.positions[last])
    return found


if __name__ == "__main__":
    main()
