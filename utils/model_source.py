"""Where a model is: on the hub, in a folder or in a `.gguf` file; its configuration there. Needs no torch."""

import contextlib
import difflib
import functools
import os
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from utils.adapters import adapter_base, check_named, expanded
from utils.errors import InputError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


# How a file begins that git-lfs has not fetched.
LFS = b"version https://git-lfs"


def source(model: str) -> dict[str, object]:
    """The arguments of transformers' `from_pretrained` for a hub name, a folder or a `.gguf` file."""
    path = expanded(model)
    if path.is_file():
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    if path.is_dir():
        return {"pretrained_model_name_or_path": str(path)}
    return {"pretrained_model_name_or_path": model, "local_files_only": not _hub_answers()}


@functools.cache
def _hub_answers() -> bool:
    """Without a network, what is cached must serve at once: the hub's own client would retry for a minute."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True  # only the client knows how to get through the proxy
    hub = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        port = hub.port or (80 if hub.scheme == "http" else 443)
        socket.create_connection((hub.hostname, port), timeout=5).close()
    except (OSError, ValueError):  # ValueError: not a port
        return False
    return True


def load_config(model: str, trust_remote_code: bool = False) -> "PreTrainedConfig":
    """The configuration of a model or, of an adapter, of its base model; its weights, which may take minutes, are not
    loaded. Raises InputError if it can't be read."""
    from transformers import AutoConfig

    base = adapter_base(model)
    if base is not None:
        check_named(model, base)
    try:
        return AutoConfig.from_pretrained(**source(base or model), trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        if base:
            raise InputError(
                f"the base model of the adapter {model}: {cannot_load('configuration', base, error)}"
            ) from error
        raise cannot_load("configuration", model, error) from error


def context(config: "PreTrainedConfig") -> int | None:
    """The most tokens that a model takes, as its configuration has it; None where it says nothing."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def cannot_load(what: str, model: str, error: Exception) -> InputError:
    path = expanded(model)
    if not path.exists() and path.parent.is_dir():
        close = difflib.get_close_matches(path.name, [there.name for there in path.parent.iterdir()], n=1)
        if close:
            meant = path.with_name(close[0])
            return InputError(
                f"model={model}: not on this machine, and not available from the hub; did you mean {meant}?"
            )
    for file in sorted(path.glob("*")) if path.is_dir() else ():
        if file.is_file() and file.stat().st_size < 1024 and file.read_bytes().startswith(LFS):
            return InputError(
                f"model={model}: {file.name} is a pointer of Git LFS; fetch the file: git lfs pull, there"
            )
    where = "" if path.exists() else " (not on this machine, and not available from the hub)"
    return InputError(
        f"model={model}: cannot load the {what}{where}: {one_line(error)} - give another model=..., "
        "a hub name, a folder or a .gguf file; `make models` fetches model=models/smollm2-135m"
    )


@contextlib.contextmanager
def quiet_transformers():
    """Without its warnings and its tables of weights that do not fit: what is wrong is an error here, and one line."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
