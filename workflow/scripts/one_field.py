"""The texts of a dataset with the tags of one field alone, so that queries=before_fields looks from before it only
(rule one_field).

A prefix is put before each text: "Text: " as in the paper's figures of Llama, so that the first word, the model's
attention sink, is not the name; or nothing ("").
"""

from pathlib import Path

from utils import biography
from utils.artifacts import write_csv
from utils.errors import InputError
from workflow.logs import logged


def one_field(tagged: str, field: str) -> str:
    """Raises InputError if the field is not tagged."""
    plain, spans = biography.field_spans(tagged)
    if field not in spans:
        raise InputError(f"no <{field}>, which the figures look at")
    start, end = spans[field]
    alone = f"{plain[:start]}<{field}>{plain[start:end]}</{field}>{plain[end:]}"
    if biography.field_spans(alone) != (plain, {field: (start, end)}):
        raise InputError(f"a stray tag keeps <{field}> from standing alone")
    return alone


def main(dataset: str, field: str, prefix: str, output: str) -> None:
    rows = []
    for number, tagged in enumerate(biography.read_texts(dataset), start=1):
        try:
            rows.append({"text": prefix + one_field(tagged, field)})
        except InputError as error:
            raise InputError(f"{dataset}: row {number}: {error}") from None
    write_csv(Path(output), rows)


if __name__ == "__main__":
    with logged(snakemake.log[0]):
        main(snakemake.input[0], snakemake.wildcards.field, snakemake.params.prefix, snakemake.output[0])
