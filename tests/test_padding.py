"""Batches of texts of several lengths."""

import torch

from utils.padding import batches, padded


def test_batches_hold_every_text_once_and_no_more_tokens_than_allowed():
    lengths = [5, 90, 7, 7, 30, 1, 64, 200]
    found = batches(lengths, batch_tokens=128)
    assert sorted(index for batch in found for index in batch) == list(range(8))
    for batch in found:
        count = len(batch) * max(lengths[index] for index in batch)
        assert count <= 128 or len(batch) == 1


def test_rows_are_padded_on_either_side_an_empty_one_too():
    ids, mask = padded([[5, 6, 7], [], [8]])
    assert torch.equal(ids, torch.tensor([[5, 6, 7], [0, 0, 0], [8, 0, 0]]))
    assert torch.equal(mask, torch.tensor([[1, 1, 1], [0, 0, 0], [1, 0, 0]]))
    ids, mask = padded([[5, 6, 7], [], [8]], padding=9, left=True)
    assert torch.equal(ids, torch.tensor([[5, 6, 7], [9, 9, 9], [9, 9, 8]]))
    assert torch.equal(mask, torch.tensor([[1, 1, 1], [0, 0, 0], [0, 0, 1]]))
