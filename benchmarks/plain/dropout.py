"""Token-dropout the plain way: a loop over tokens, one random number each, and slices of the string."""

import math
import random

import numpy as np


def variants(text: str, offsets: np.ndarray, weights: np.ndarray, alpha: float, beta: float, count: int) -> list[str]:
    spans = offsets.tolist()
    order = sorted(range(len(spans)), key=lambda token: -weights[token])
    rank = {token: position for position, token in enumerate(order)}
    drawn = []
    for _ in range(count):
        variant = text
        for token, (start, end) in enumerate(spans):
            if text[start:end].strip() in (",", "."):
                continue
            if random.random() < alpha * (1 - math.exp(-beta * rank[token])):
                variant = variant[:start] + " " * (end - start) + variant[end:]
        drawn.append(variant)
    return drawn
