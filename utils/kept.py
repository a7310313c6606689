"""What a run has computed so far, kept in lines on disk, so that a later run can resume.

They are in the folder that the run has claimed (utils.artifacts.claimed), in a file for each process:

    sha256, hexadecimal, of what made it and of the JSON; a space; JSON

So a line that a kill cut short is not used, nor is one of other settings, texts or weights. JSON runs no code.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from utils import artifacts


class Kept:
    """folder: as `claimed` gives it; made_by: all that decides what is computed, as JSON takes it."""

    def __init__(self, folder: Path, made_by: Mapping):
        self.folder = folder
        # Read back, each key is text: max_memory has numbers as well.
        plain = json.loads(json.dumps(made_by))
        self.made_by = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).digest()

    def read(self, resume: bool) -> list:
        """What earlier runs have kept, in the order of each; without `resume` nothing, and it is removed. For the first
        process alone, before any other adds to it."""
        if not resume:
            for left in artifacts.leftovers(self.folder):
                with artifacts.writing(left):
                    left.unlink()
            return []
        found, lines = [], 0
        for path in sorted(self.folder.glob("*.jsonl")):
            with open(path, "rb") as opened:
                for line in map(bytes.rstrip, opened):
                    lines += bool(line)
                    if line[:64] == self._checksum(line[65:]):
                        found.append(json.loads(line[65:]))
        if found:
            print(f"resume: continuing; batches kept by an earlier run: {len(found)}")
        elif lines:
            print("resume: the kept work has different settings, texts, weights, versions or code; starting over")
        return found

    def add(self, content: object) -> None:
        line = json.dumps(content).encode()
        path = self.folder / f"{os.environ.get('RANK', '0')}.jsonl"
        # The line before it may have been cut short.
        with artifacts.writing(path), open(path, "ab") as opened:
            opened.write(b"\n" + self._checksum(line) + b" " + line)

    def _checksum(self, line: bytes) -> bytes:
        return hashlib.sha256(self.made_by + line).hexdigest().encode()


def made_by(config: dict, **others: object) -> dict:
    """What decides a run's results: versions, code, what the script adds, and its configuration but for `resume` and
    `heatmap`."""
    decides = {key: config[key] for key in config if key not in ("resume", "heatmap")}
    return {"config": decides, "versions": artifacts.versions(), "code": artifacts.code_hash()} | others
