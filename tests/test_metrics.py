"""Frame-level metrics against counting pairs one by one, by hand, and against really resampling videos."""

import itertools

import numpy as np
import pytest

from lgn_net.scores import metrics
from lgn_net.scores.metrics import auc, bootstrap, interval, paired_p_value, roc


def auc_by_pairs(labels, scores):
    """Share of (abnormal, normal) pairs in which the abnormal frame is the less normal one; ties count half."""
    pairs = list(itertools.product(scores[labels == 1], scores[labels == 0]))
    return sum((a < n) + (a == n) / 2 for a, n in pairs) / len(pairs)


def drawn(seed, lengths=(12, 30, 7), levels=6):
    """Random labels and normality with many ties; then a video all abnormal and one all normal."""
    rng = np.random.default_rng(seed)
    labels = [np.append(rng.integers(0, 2, n - 2), [0, 1]) for n in lengths] + [np.ones(5, int), np.zeros(6, int)]
    return labels, [rng.integers(0, levels, len(y)) / (levels - 1) for y in labels]


@pytest.mark.parametrize("seed", range(3))
def test_auc_against_counting_pairs(seed):
    labels, scores = drawn(seed, levels=(3, 8, 10**6)[seed])
    assert auc(labels, scores) == pytest.approx(auc_by_pairs(*map(np.concatenate, (labels, scores))), abs=1e-12)
    each = [auc_by_pairs(labels[v], scores[v]) for v in range(3)]                     # the last two have one class
    assert auc(labels, scores, "macro") == pytest.approx(np.mean(each), abs=1e-12)
    assert metrics.video_aucs(labels, scores) == pytest.approx([*each, np.nan, np.nan], abs=1e-12, nan_ok=True)


def test_padded_by_hand():
    """Pairs in order: in video a 2.5 of the frame at 0.2 and 3 of the one added at 0, of 6; in video b,
    all abnormal, 2.5 of the 3 with the normal frame added at 1.
    """
    a, b = (np.array([0, 0, 1]), np.array([0.2, 0.7, 0.2])), (np.array([1, 1]), np.array([0.4, 1.0]))
    assert auc(*zip(a, b, strict=True), "padded") == pytest.approx((5.5 / 6 + 2.5 / 3) / 2)
    # Scores beyond [0, 1], PSNRs: what is added still lies beyond all of them.
    far = [np.array([20.0, 70.0, 20.0]), np.array([-4.0, 100.0])]
    assert auc([a[0], b[0]], far, "padded") == pytest.approx((5.5 / 6 + 2.5 / 3) / 2)


def test_equal_error_rate():
    y = np.array([0, 0, 0, 1, 1])
    for x, rate in ((1.0 - y, 0), (y, 1), (np.zeros(5), 0.5), (np.array([3, 2, 0, 1, 0]), 1 / 3)):
        # The last: at threshold 0 one of 3 normal frames in vain and one of 2 abnormal ones missed, at 1 none missed.
        assert metrics.all_frames([y], [x])["eer"] == pytest.approx(rate)


def test_operating_points_are_the_best_of_every_threshold():
    """Most abnormal frames found with so many false alarms; or the closest to as many misses as false alarms."""
    for seed, levels in itertools.product(range(3), (2, 4, 10**6)):
        labels, scores = drawn(seed, levels=levels)
        y, x = np.concatenate(labels), np.concatenate(scores)
        tried = [((x[y == 0] <= t).mean(), (x[y == 1] <= t).mean()) for t in (-np.inf, *np.unique(x))]
        for wanted in (None, 0, 0.05, 0.3, 1):
            point = metrics.operating_point(*roc(labels, scores), x, wanted)
            rates = point["false_positive_rate"], point["true_positive_rate"]
            false_alarms, misses = metrics.mistakes(y, x, point)
            assert rates == pytest.approx((false_alarms.sum() / (y == 0).sum(), 1 - misses.sum() / (y == 1).sum()))
            if wanted is None:
                assert abs(sum(rates) - 1) == pytest.approx(min(abs(sum(rates) - 1) for rates in tried))
            else:
                assert rates[1] == max(found for alarms, found in tried if alarms <= wanted) and rates[0] <= wanted


@pytest.mark.parametrize("average", ["micro", "macro", "padded"])
def test_bootstrap_against_really_resampling(average):
    for labels, scores in (drawn(1), [part[:3] for part in drawn(2, lengths=(4, 4))]):     # often of one class
        V = len(labels)
        times, expected = np.random.default_rng(0).multinomial(V, np.full(V, 1 / V), size=30), []
        for row in times:
            chosen = np.repeat(np.arange(V), row)
            value = auc([labels[v] for v in chosen], [scores[v] for v in chosen], average)
            expected.append(np.nan if value is None else value)
        draws = bootstrap(labels, scores, average, resamples=30)
        np.testing.assert_allclose(draws, expected, rtol=0, atol=1e-12)
        assert np.isnan(expected).any() == (average != "padded" and V == 3)
        assert interval(draws) == pytest.approx(np.nanquantile(expected, [0.025, 0.975]))


def test_p_values():
    """By hand, whichever detector comes first; of equal detectors."""
    draws = np.array([-1, 2, 3, np.nan, 4])
    assert paired_p_value(draws) == paired_p_value(-draws) == 2 * (1 + 1) / (4 + 1)
    assert paired_p_value(0 * draws) == 1
