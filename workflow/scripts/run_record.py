"""The record of a run, tables_out/<table>/runs/<arm>/seed-<seed>/run.json (rule run_record)."""

import json
from pathlib import Path

from utils.artifacts import write_json
from workflow.logs import logged


def main(settings: dict, budget: str, model: str, augmented: str | None, output: str) -> None:
    """augmented: data_augmentation.py's record; None where the texts stay untouched."""
    steps, _, tokens, texts = Path(budget).read_text().split()
    dropped = json.loads(Path(augmented).read_text()) if augmented else {}
    made = json.loads(Path(model, "run.json").read_text())
    state = json.loads(Path(model, f"checkpoint-{steps}", "trainer_state.json").read_text())
    loss = [[entry["step"], entry["loss"]] for entry in state["log_history"] if "loss" in entry]
    record = {"settings": settings, "steps": int(steps), "texts_a_step": float(texts)}
    record |= {"tokens_a_text": float(tokens), "loss": loss}
    record |= {share: dropped.get(share, 0.0) for share in ("characters_blanked", "tokens_dropped")}
    record |= {key: made[key] for key in ("versions", "commit", "device")}
    write_json(Path(output), record)


if __name__ == "__main__":
    with logged(snakemake.log[0]):
        found = snakemake.input
        main(snakemake.params.settings, found.budget, found.model, found.augmented or None, snakemake.output[0])
