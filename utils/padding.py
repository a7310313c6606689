"""Texts of several lengths as one batch."""

import torch


def padded(rows: list[list[int]], padding: int = 0, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 [rows, longest] each: the ids with `padding` on the right (or left), and a mask of 1 for ids and 0 else."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), padding)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(len(row))
        ids[index, place] = torch.tensor(row, dtype=torch.long)
        mask[index, place] = 1
    return ids, mask
