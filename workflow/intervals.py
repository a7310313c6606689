"""How sure a table's numbers are: scores are float arrays [seeds, people], or paragraphs in place of people: what
shares a paragraph stands or falls together, as what shares a person does."""

import numpy as np
from scipy.stats import bootstrap, permutation_test

RESAMPLES = 9999


def interval(scores: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean: percentiles of a bootstrap that draws people and seeds anew, together.

    Drawing both (rather than all scores alike) keeps together what shares a person or a seed, so that a hard
    question or an unlucky seed counts as one event, not as many.
    """

    def mean(seeds: np.ndarray, people: np.ndarray, axis: int) -> np.ndarray:
        return scores[seeds[..., :, None], people[..., None, :]].mean(axis=(-2, -1))

    found = bootstrap(
        tuple(np.arange(count) for count in scores.shape),
        mean,
        n_resamples=RESAMPLES,
        batch=500,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def p_value(scores: np.ndarray, others: np.ndarray) -> float:
    """Of a paired permutation test over people, two-sided: the same people answer under both arms, so under the null
    hypothesis a person's two means over the seeds could be exchanged.

    It speaks of these trainings: that a lucky seed lifts all people together is in `interval`, not here.
    """

    def difference(one: np.ndarray, other: np.ndarray, axis: int) -> np.ndarray:
        return np.mean(one - other, axis=axis)

    return float(
        permutation_test(
            (scores.mean(axis=0), others.mean(axis=0)),
            difference,
            permutation_type="samples",
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=500,
            rng=np.random.default_rng(0),
        ).pvalue
    )
