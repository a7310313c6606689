"""Stage 1: texts + model -> attention dump.

    python save_attention.py model=meta-llama/Meta-Llama-3-8B \\
      dataset=data/biography_real.csv save_name=attn_dump_llama_3_8b

Several processes share the work: torchrun --nproc-per-node 2 save_attention.py ... gives the same dump.
"""

import base64
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from utils import artifacts, attention_dump, biography, heatmap, next_stage, rules, texts, tokens, windows
from utils.errors import InputError
from utils.kept import Kept, made_by
from utils.model_source import context, load_config
from utils.script import script
from utils.tokenizer import fed_around, fingerprint, load_tokenizer

# At a time: enough for batches of like length, few enough to stay small.
CHUNK_CHARACTERS = 1_000_000


def layer_numbers(value: object) -> Sequence[int]:
    is_list = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
    if not is_list or any(type(number) is not int or number < 0 for number in value):
        raise ValueError("must be a list of whole numbers from 0, such as [0,1]")
    return list(value)


RULES = {
    "model": rules.model(),
    "dataset": rules.file(or_folder=True),
    "text_column": rules.text(),
    "tags": rules.one_of("auto", True, False),
    "save_name": rules.file_name(),
    "dtype": rules.dtype(),
    "quant": rules.optional(rules.mapping()),
    "device_map": rules.optional(rules.device_map),
    "max_memory": rules.optional(rules.mapping()),
    "trust_remote_code": rules.boolean(),
    "include_self": rules.boolean(),
    "queries": rules.one_of("following", "before_fields"),
    "layers": rules.optional(layer_numbers),
    "prepend_bos": rules.one_of("auto", True, False),
    "window": rules.optional(rules.integer(2)),
    "stride": rules.optional(rules.integer(1)),
    "batch_tokens": rules.integer(1),
    "heatmap": rules.optional(rules.picture()),
    "resume": rules.boolean(),
}


@script("save_attention", RULES, writes=["save_name"])
def main(config):
    started = time.monotonic()
    windows.check_stride(config)
    if config.heatmap:
        heatmap.check(config.heatmap, config.dataset)
    dump_path = attention_dump.dump_path(config.save_name)
    with artifacts.claimed("save_name", dump_path, dump_path.with_suffix(".json"), dataset=config.dataset) as folder:
        extract(config, dump_path, folder)
    # Only the user knows whether this is the large or the small model.
    following = {"attn_dump_large": config.save_name, "attn_dump_small": "SMALL", "attn_diff": "DIFFERENCE"}
    next_stage.announce(started, "contrast_attention", **following)


def extract(config: Mapping, dump_path: Path, folder: Path) -> None:
    """The stage itself; `folder` is for what it keeps until the dump is written.

    The texts are read several times, so that however many they are they never lie in memory: to find what is wrong with
    them before torch is imported, to count what there is to do, and to do it.
    """
    digest = hashlib.sha256()
    for plain, tagged in biography.read(config.dataset, config.text_column, config.tags):
        digest.update(f"{tagged or plain}\0".encode())

    # torch and transformers take seconds to import: only once the input is known to be good.
    from utils import received_attention
    from utils.models import load_model, weights_hash
    from utils.padding import input_device
    from utils.processes import broadcast, gathered, is_main_process, my_share, progress

    # Prepare data
    tokenizer = load_tokenizer(config.model, config.trust_remote_code)
    if config.queries == "before_fields":
        totals(parts(config, tokenizer, None))  # where a text has no field it says so before the model is loaded
    model_config = load_config(config.model, config.trust_remote_code)
    window = windows.size(config.window, context(model_config), config.model)
    layers = None if config.layers is None else sorted(set(config.layers))
    if layers is not None:
        check_layers(layers, model_config.get_text_config().num_hidden_layers)

    # Prepare model
    settings = OmegaConf.to_container(config)
    placed = {"device_map": settings["device_map"], "max_memory": settings["max_memory"]}
    model = load_model(config.model, config.dtype, settings["quant"], config.trust_remote_code, placed=placed)
    receive = received_attention.ReceivedAttention(model, config.include_self, layers)
    count, texts_cut, in_batches, (highest, row) = totals(parts(config, tokenizer, window))
    tokens.check_id(highest, tokens.embedding_rows(model), f"{config.dataset}: row {row}")

    # What an earlier run has kept, batch by batch: a batch's values depend on what it is padded to. In memory it takes
    # some 5 bytes a token.
    read_with = {
        "texts_sha256": digest.hexdigest(),
        "tokenizer": fingerprint(tokenizer),
        "special_tokens": fed_around(tokenizer),
        "weights_sha256": weights_hash(model),
        "device": input_device(model).type,
    }
    kept = Kept(folder, made_by(settings, **read_with))
    kept_values = dict(kept.read(config.resume)) if is_main_process() else {}
    done = broadcast(set(kept_values))

    # Read attention
    dump = attention_dump.Unfinished(folder) if is_main_process() else None
    begins_special = True
    first_batch = 0
    mine = set(my_share([number for number in range(in_batches) if number not in done]))
    with progress("attention", total=len(mine)) as bar:
        for part in parts(config, tokenizer, window):
            numbers = range(first_batch, first_batch + len(part.batches))
            first_batch += len(part.batches)
            values = {}
            for number in filter(mine.__contains__, numbers):
                batch = [part.windows[index] for index in part.batches[number - numbers.start]]
                values[number] = received_by(receive, batch, config)
                kept.add([number, [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in values[number]]])
                bar.update()
            values = gathered(values)
            if dump is None:
                continue
            for number in kept_values.keys() & numbers:
                values[number] = [np.frombuffer(base64.b64decode(row), "<f4") for row in kept_values.pop(number)]
            by_window = {
                index: row
                for number in numbers
                for index, row in zip(part.batches[number - numbers.start], values[number], strict=True)
            }
            # A text's windows, one behind the other, have a value for each of its tokens, in order.
            offsets = [encoded_text.offsets for encoded_text in part.encoded]
            dump.add(part.text_sha256, offsets, [by_window[index] for index in range(len(by_window))])
            begins_special &= all(0 not in encoded_text.positions for encoded_text in part.encoded)
    if dump is None:
        return

    # Save
    dump_settings = {
        "include_self": config.include_self,
        # What was fed, whoever put it there: a dump with a special token first compares with any other such.
        "prepend_bos": begins_special,
        "queries": config.queries,
        "layers": layers,
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    if getattr(model, "is_quantized", False):
        # A model that was saved quantized brings its own.
        method = model.config.quantization_config.quant_method
        dump_settings["quant"] = settings["quant"] or {"quant_method": getattr(method, "value", method)}
    # Where no text was cut, any window gives the same.
    if texts_cut:
        dump_settings |= {"window": window, "stride": windows.step(window, config.stride)}
        print(f"{texts_cut} of {count} texts are longer than {window} tokens and were read in windows")
    dump.write(config.save_name, config.model, read_with["tokenizer"], dump_settings, artifacts.record(settings))
    print(f"{dump_path}: {count} texts, {sum(dump.tokens):,} tokens of {config.model}")
    if config.heatmap:
        title = f"{config.model}: what each token receives of the attention"
        plain = (plain for plain, _ in biography.read(config.dataset, config.text_column, config.tags))
        rows = attention_dump.read_dump(dump_path).rows
        heatmap.write(config.heatmap, title, heatmap.shaded_rows(plain, rows), count)


@dataclass
class FedWindow:
    """One window of a text, as the model is fed it.

    input_ids: list of t ids; reads: int64, those whose values are wanted (see utils.windows); queries: int64, those
    that count as queries, None if all do; row: the text's, from 1.
    """

    input_ids: list[int]
    reads: np.ndarray
    queries: np.ndarray | None
    row: int


@dataclass
class Part:
    """Texts that follow each other, from number `first` (from 0) on: how many are cut, all their windows, and
    batches of these by their numbers."""

    first: int
    text_sha256: list[str]
    encoded: list[tokens.Encoded]
    texts_cut: int
    windows: list[FedWindow]
    batches: list[list[int]]


def parts(config: Mapping, tokenizer, window: int | None) -> Iterator[Part]:
    """The dataset, part by part, as it is fed."""
    from utils.padding import batches

    found = biography.read(config.dataset, config.text_column, config.tags)
    for first, chunk in texts.chunks(found, CHUNK_CHARACTERS, length=lambda text: len(text[0])):
        plain = [text for text, _ in chunk]
        encoded = tokens.encode(tokenizer, plain, config.prepend_bos)
        queries = None
        if config.queries == "before_fields":
            queries = before_fields([tagged for _, tagged in chunk], encoded, config.dataset, first)
        fed, texts_cut = [], 0
        for number, encoded_text in enumerate(encoded):
            cut = windows.windows(encoded_text, window, config.stride)
            texts_cut += len(cut) > 1
            ids = np.array(encoded_text.input_ids)
            for places, reads, _ in cut:
                counted = None if queries is None else np.flatnonzero(np.isin(places, queries[number]))
                fed.append(FedWindow(ids[places].tolist(), reads, counted, first + number + 1))
        hashes = list(map(attention_dump.text_hash, plain))
        in_batches = batches([len(fed_window.input_ids) for fed_window in fed], config.batch_tokens)
        yield Part(first, hashes, encoded, texts_cut, fed, in_batches)


def received_by(receive, batch: list[FedWindow], config: Mapping) -> list[np.ndarray]:
    """float32, for each window, what its wanted tokens (`reads`) receive; InputError, naming the row, if a value is NaN
    or infinite."""
    queries = [window.queries for window in batch] if config.queries == "before_fields" else None
    received = receive.texts([window.input_ids for window in batch], queries)
    values = [token_values[window.reads] for window, token_values in zip(batch, received, strict=True)]
    for window, wanted in zip(batch, values, strict=True):
        if not np.isfinite(wanted).all():
            raise InputError(
                f"{config.dataset}: row {window.row}: the attention of {config.model} is not a number (NaN): "
                "try dtype=float32; if that fails, its training diverged"
            )
    return values


def totals(found: Iterator[Part]) -> tuple[int, int, int, tuple[int, int]]:
    """How many texts there are, how many of them are cut, in how many batches; the highest id, and its row."""
    count = texts_cut = in_batches = 0
    highest = -1, 0
    for part in found:
        count += len(part.encoded)
        texts_cut += part.texts_cut
        in_batches += len(part.batches)
        highest = max(highest, tokens.highest_id(part.encoded, part.first), key=lambda id_and_row: id_and_row[0])
    return count, texts_cut, in_batches, highest


def check_layers(layers: list[int], count: int) -> None:
    """Raise InputError if the model, which has `count` layers, has no such layer."""
    if layers[-1] >= count:
        raise InputError(f"layers={layers}: the model has {count} layers, numbered from 0")


def before_fields(
    tagged: list[str | None], encoded: list[tokens.Encoded], dataset: str, first: int = 0
) -> list[np.ndarray]:
    """For each text where, among its ids, the tokens are that stand just before a tagged field (the name's tag is one):
    of each field the last token that ends where the field begins, or before. A space that is a token by itself counts
    as any other: it is the token from which the model predicts the field's first.

    tagged: None for a text without tags. Raises InputError if there is no such token, naming the row (the first
    text's number, from 0, is `first`).
    """
    found = []
    for row, (with_tags, encoded_text) in enumerate(zip(tagged, encoded, strict=True), start=first + 1):
        _, fields = biography.field_spans(with_tags or "")
        before = [np.flatnonzero(encoded_text.offsets[:, 1] <= start) for start, _ in fields.values()]
        last = sorted({int(tokens_before[-1]) for tokens_before in before if len(tokens_before)})
        if not last:
            raise InputError(
                f"{dataset}: row {row} has no tagged field with text before it, and queries=before_fields looks from "
                "there: tag its fields, or use queries=following"
            )
        found.append(encoded_text.positions[last])
    return found


if __name__ == "__main__":
    main()
