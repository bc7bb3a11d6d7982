"""Signals to normality and numbers under every protocol: by hand, by loops, and with anomalies at known frames."""

import numpy as np
import pytest
from helpers import made_scores

from lgn_net.errors import UserError
from lgn_net.scores.metrics import AVERAGES, auc
from lgn_net.scores.normality import SCOPES, normality
from lgn_net.scores.protocols import GRID, SIGMAS, Protocol, compare, grid, measure, normality_under, paper_weights
from lgn_net.scores.score_file import VideoScores

PSNR = [np.array([20.0, 30.0, 25.0]), np.array([40.0, 30.0])]
DISTANCE = [np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.1])]
HALF = paper_weights(0.5)
TRAINING = made_scores({"t": np.zeros(20)}, seed=9)


def ours(psnr, distance, weight, scope="video", training=()):
    videos = [{"psnr": p, "distance": d} for p, d in zip(psnr, distance, strict=True)]
    return normality(videos, paper_weights(weight), scope, training)


def made(V=4, seed=3):
    rng = np.random.default_rng(seed)
    return made_scores({f"{v}": np.append(rng.integers(0, 2, 8 + 3 * v), [0, 1]) for v in range(V)}, seed, skill=0)


def test_normality_by_hand():
    """p: PSNR, d: 1 - D, brought to [0, 1] within each video, over both, over the past; or not at all."""
    training = [{"psnr": np.array([24.0, 26.0]), "distance": np.array([0.1, 0.5])}]    # mean 25, 0.3; spread 1, 0.2
    for scope, p, d in (("video", [[0, 1, 0.5], [1, 0]], [[1, 0.5, 0], [0, 1]]),
                        ("dataset", [[0, 0.5, 0.25], [1, 0.5]], [[1, 0.75, 0.5], [0, 1]]),
                        ("causal", [[0.5, 1, 0.5], [0.5, 0]], [[0.5, 0, 0], [0.5, 1]]),
                        ("training", [[-5, 5, 0], [15, 5]], [[1, 0.5, 0], [-1, 1]]),
                        ("none", PSNR, [-x for x in DISTANCE])):
        for weight in (1, 0, 0.6):
            for v, scores in enumerate(ours(PSNR, DISTANCE, weight, scope, training)):
                expected = weight * np.array(p[v]) + (1 - weight) * np.array(d[v])
                np.testing.assert_allclose(scores, expected, atol=1e-12, err_msg=scope)
    flat, varied = [np.full(3, 30.0)], [np.array([0.1, 0.3, 0.2])]                     # constant signals say nothing
    np.testing.assert_allclose(ours(flat, varied, 0.6)[0], 0.6 * 0.5 + 0.4 * np.array([1, 0, 0.5]))
    constant = [{"psnr": np.full(4, 29.0), "distance": np.full(4, 0.2)}]
    np.testing.assert_allclose(ours(flat, varied, 1, "training", constant)[0], 1)      # 30 - 29, no spread


def test_grid_is_each_protocol_on_its_own():
    videos = made()
    values = grid(videos, HALF, TRAINING)
    assert list(values) == GRID and len(GRID) == len(SCOPES) * len(SIGMAS) * len(AVERAGES) == 60
    for protocol, value in values.items():
        normal = normality_under(protocol, videos, HALF, TRAINING)
        assert value == auc([video.labels for video in videos], normal, protocol.average), protocol
    assert len(set(values.values())) > 40                                              # a choice that changes nothing?
    assert grid(videos, HALF) == {p: None if p.scope == "training" else value for p, value in values.items()}
    with pytest.raises(UserError, match=r"training.*calibration\.csv"):
        normality_under(Protocol("training"), videos, HALF)


def test_measure_by_hand():
    """Two videos, normality 0, 1, 1/2 and 1, 0 from the PSNR alone; the second frame of each is abnormal."""
    videos = [VideoScores(name, np.arange(len(labels)), {"psnr": p, "distance": d}, np.array(labels))
              for name, labels, p, d in zip("ab", ([0, 1, 0], [0, 1]), PSNR, DISTANCE, strict=True)]
    results = measure(videos, paper_weights(1))
    # Abnormal 1, 0; normal 0, 1/2, 1: of six pairs in order 1/2 (the tie at 1) and 2.5 (one tie at 0).
    assert results["auc"] == results["auc_psnr"] == pytest.approx(3 / 6)
    # 1 - D: abnormal 1/2, 1; normal 1, 0, 0: 1 and 1/2.
    assert results["auc_distance"] == pytest.approx(1.5 / 6)
    # From the least normal frame on: a tie of both classes, a normal frame, a tie: precision 1/2 at half, 2/5 at all.
    assert results["average_precision"] == pytest.approx(1 / 2 * 1 / 2 + 1 / 2 * 2 / 5)
    assert (results["psnr_normal"], results["psnr_abnormal"]) == pytest.approx((85 / 3, 30))
    assert (results["distance_normal"], results["distance_abnormal"]) == pytest.approx((0.9 / 3, 0.15))
    assert [results[key] for key in ("videos", "frames", "abnormal_frames", "single_class_videos")] == [2, 5, 2, 0]
    assert (results["chance"], results["gap"]) == pytest.approx((0.4, 0))
    assert [list(one.values()) for one in results["per_video"]] == [["a", 3, 1, 0, 0.5], ["b", 2, 1, 1, 0.5]]
    assert 0 <= results["interval"][0] < results["interval"][1] <= 1


def test_baselines():
    """AUCs of copying, of extrapolation, and of the PSNR beyond copying, each under the headline's protocol."""
    rng = np.random.default_rng(5)
    videos, training = ([video._replace(signals=video.signals | {name: rng.normal(30, 4, len(video.frames))
                                                                 for name in ("psnr_copy", "psnr_linear")})
                         for video in some] for some in (made(), TRAINING))
    for protocol in (Protocol(), Protocol("training", 3.0, "macro")):
        results = measure(videos, HALF, protocol, training)
        for key, signal in (("auc_copy", lambda x: x["psnr_copy"]), ("auc_linear", lambda x: x["psnr_linear"]),
                            ("auc_skill", lambda x: x["psnr"] - x["psnr_copy"])):
            some, known = ([video._replace(signals={"psnr": signal(video.signals)}) for video in some]
                           for some in (videos, training))
            expected = normality_under(protocol, some, {"psnr": 1.0}, known)
            assert results[key] == auc([video.labels for video in videos], expected, protocol.average)
        bare = measure(videos, HALF, protocol, TRAINING)       # training scores of an older file
        assert ("auc_copy" in bare) == (protocol.scope != "training")


def test_compare_on_the_frames_that_both_hold():
    """The second file lacks a video and frames of another, has one of its own, and another order."""
    ours = made()
    theirs = [video._replace(signals={name: np.roll(x, 1) for name, x in video.signals.items()}) for video in ours]
    _, frames, signals, y = theirs[1]
    cut = VideoScores("1", frames[2:], {name: x[2:] for name, x in signals.items()}, y[2:])
    theirs = [*made_scores({"own": np.array([0, 1, 1])}), theirs[3], cut, theirs[2]]
    result = compare(ours, theirs, (HALF, paper_weights(0.2)))
    x, y = (normality_under(Protocol(), videos, w) for videos, w in ((ours, HALF), (theirs, paper_weights(0.2))))
    labels = [cut.labels, ours[2].labels, ours[3].labels]
    assert result["auc"] == pytest.approx(auc(labels, [x[1][2:], x[2], x[3]]))      # normalised with all of its frames
    assert result["auc_other"] == pytest.approx(auc(labels, [y[2], y[3], y[1]]))
    assert result["difference"] == pytest.approx(result["auc"] - result["auc_other"])
    assert result["interval"][0] < result["difference"] < result["interval"][1] and 0 < result["p_value"] <= 1
    assert [result[key] for key in ("videos", "frames", "frames_left_out", "frames_left_out_other")] == [
        3, 11 + 16 + 19, 10 + 2, 3]


def test_compare_of_one_video_of_one_class_and_what_cannot_be_compared():
    first, second, videos = made(V=1), made(V=1, seed=4), made()
    second[0] = second[0]._replace(labels=first[0].labels)
    normal = [video._replace(labels=0 * video.labels) for video in videos]
    for more, average in (([], "micro"), (normal[1:], "macro")):                     # one video is of both classes
        result = compare([*first, *more], [*second, *more], (HALF, HALF), Protocol(average=average))
        assert result["difference"] != 0 and result["interval"] is result["p_value"] is None
    assert compare(normal, normal, (HALF, HALF))["difference"] is None
    same = compare(videos, videos, (HALF, HALF), Protocol("dataset", 1.0, "macro"))
    assert (same["difference"], same["p_value"], same["interval"]) == (0, 1, (0, 0))
    flipped, strange = [*videos[:2], videos[2]._replace(labels=1 - videos[2].labels)], made_scores({"x": np.arange(2)})
    for others, said in ((flipped, "disagree.*16 frames of video 2"), (strange, "no frame in common")):
        with pytest.raises(UserError, match=said):
            compare(videos, others, (HALF, HALF))
