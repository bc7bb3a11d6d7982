"""The figures show the numbers that are in the files, under the names that the user gave."""

import json
import warnings

import cv2
import matplotlib
import numpy as np
import pytest
from helpers import load_script, made_scores, run, sentence
from sklearn.metrics import roc_auc_score, roc_curve

from lgn_net.report import figures
from lgn_net.report.figures import curve_pages, draw_maps, plan_figure
from lgn_net.scores.maps import FrameMap, save_maps
from lgn_net.scores.protocols import PAPER, measure, normality_under
from lgn_net.scores.score_file import VideoScores, write_scores

script = load_script("scripts/make_figures.py")
WEIGHTS = {"psnr": 0.6, "distance": -0.4}
CONFIG = {"seed": 0, "loss": {"margin": 1.0}, "score": {"gamma": 0.009}}


def write_evaluation(folder, config=CONFIG, seed=0, weights=WEIGHTS, abnormal=True):
    """A folder as evaluate.py leaves it; returns its scores with the normality."""
    labels = np.zeros(40, np.uint8)
    labels[10:20] = labels[37:] = abnormal
    videos = made_scores({"01": labels, "v_$x$_2": labels}, seed)
    if "score" in weights:
        videos = [video._replace(signals={"score": video.signals["distance"]}) for video in videos]
    normal = normality_under(PAPER, videos, weights)
    videos = [video._replace(signals=video.signals | {"normality": x}) for video, x in zip(videos, normal)]
    write_scores(folder / "scores.csv", videos)
    results = measure(videos, weights) | {"dataset": "ped2", "label_source": None, "signals": weights, "scoring": {}}
    results |= {"gap_psnr": measure(videos, {"psnr": 1.0})["gap"]} if "psnr" in weights else {}
    (folder / "results.json").write_text(json.dumps(results | ({"config": config} if config else {})))
    return videos, results


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Run the script: {name of the file: Figure}. Nothing is written."""

    def call(folders, *argv):
        kept = {}
        monkeypatch.setattr(script.figures, "save_figure", lambda figure, path: (
            kept.setdefault(path.name, figure), path))
        result = run(script.main, *folders, *argv, "--out", tmp_path / "out")
        assert result.status == 0, result
        return kept

    return call


def texts(artists):
    """What is written on them, on one line each."""
    return [" ".join(artist.get_text().split()) for artist in artists]


def test_curves_and_shading():
    """Half a frame to either side of an abnormal period; normality beyond [0, 1] is not cut off."""
    videos = [VideoScores("a_$x$_b", np.arange(4, 10), {}, np.array([1, 0, 0, 1, 1, 0])),
              VideoScores("c", np.array([7]), {}, np.array([1]))]
    normality = [np.array([0.0, -3.0, 2.0, 20.0, 1.0, 0.5]), np.array([4.0])]
    figure, = curve_pages(videos, normality, point={"threshold": 1.0})
    spans = [[tuple(patch.get_bbox().intervalx) for patch in axes.patches] for axes in figure.axes]
    assert spans == [[(3.5, 4.5), (6.5, 8.5)], [(6.5, 7.5)]]
    for axes, video, x in zip(figure.axes, videos, normality):
        np.testing.assert_array_equal(axes.lines[0].get_xydata(), np.stack([video.frames, x], axis=1))
        low, high = axes.get_ylim()
        assert low <= -3 and high >= 20
    wrong = [[line.get_xdata().tolist() for line in axes.lines[2:]] for axes in figure.axes]    # false alarms, misses
    assert wrong == [[[5, 9], [7]], [[], [7]]]
    assert figure.axes[0].get_title() == "a_$x$_b" and not figure.axes[0].title.get_parse_math()
    lengths = range(1, 14)
    many = [VideoScores(f"{n}", np.arange(n), {}, np.arange(n) % 2) for n in lengths]
    pages = curve_pages(many, [*map(np.zeros, lengths)])
    assert [len(page.axes) for page in pages] == [12, 1]


def test_error_maps(tmp_path):
    """Blue-green-red is shown as red-green-blue, errors on one scale, the box where it is, in the frame's aspect."""
    image = np.zeros((4, 6, 3), np.uint8)
    image[..., 0] = 200                                                                                  # blue
    maps = [FrameMap("v_$1$", k, "miss", 0.5, 1, image, image[..., :1] // 2, np.full((4, 6), k, np.float32), 3.0)
            for k in range(8)]
    first, second = draw_maps(maps)
    panels = first.axes[:4]
    assert panels[0].images[0].get_array()[0, 0].tolist() == [0, 0, 200]
    assert panels[1].images[0].get_array()[0, 0] == 100
    assert {page.axes[-1].get_ylim()[1] for page in (first, second)} == {7.0}
    assert [axes.get_aspect() for axes in panels] == [0.5] * 4                                   # 6 x 4 pixels as 3 : 1
    assert panels[3].patches[0].get_bbox().bounds == (-0.5, -0.5, 6, 4)
    assert panels[0].get_ylabel() == "v_$1$\nframe 0\nmiss\nabnormal\nnormality 0.50"
    assert len(second.axes) == 2 * 4 + 1


def test_seeds_are_a_mean_in_a_band(tmp_path, draw):
    """Runs that differ in the seed alone, and one by itself; sweeps with a ring at the run's value."""
    folders = [tmp_path / name for name in ("a/seed_0", "a/seed_1", "b_$x$/seed_0", "b_$x$/seed_1", "alone")]
    results, curves = [], []
    for k, folder in enumerate(folders):
        videos, found = write_evaluation(folder, CONFIG | {"seed": k % 2, "loss": {"margin": k // 2}}, k)
        results.append(found)
        y, normal = (np.concatenate(x) for x in zip(*((video.labels, video.signals["normality"]) for video in videos)))
        curves.append(roc_curve(y, -normal, drop_intermediate=False)[:2])
        (folder / "sweep_gamma.csv").write_text(f"gamma,auc\n1,0.9\n{k / 8},0.{k + 1}\n2,0.{k + 1}\n3,\n")
    alone = 100 * roc_auc_score(y, -normal)                                                         # of the last one
    drawn = draw(folders, "--figures", 4, 7, 9, 10)
    axes, = drawn["fig10_lambda"].axes
    aucs = 100 * np.array([[one[f"auc{name}"] for name in ("_distance", "", "_psnr")] for one in results[:2]])
    np.testing.assert_allclose(axes.lines[0].get_ydata()[[0, 30, 50]], aucs.mean(axis=0))
    np.testing.assert_allclose(axes.lines[1].get_xydata(), [[0.6, aucs[:, 1].mean()]])
    edge = axes.collections[0].get_paths()[0].vertices
    np.testing.assert_allclose(edge[edge[:, 0] == 1, 1].min(), (aucs.mean(axis=0) - aucs.std(axis=0, ddof=1))[2])
    x, y = drawn["fig9_gamma"].axes[0].lines[0].get_xydata().T                # from the greatest of the smallest gammas
    np.testing.assert_allclose(x, [0.125, 1, 2, 3])
    np.testing.assert_allclose(y[1:], [90, 15, np.nan])                                # an undefined AUC is a gap
    axes, = drawn["fig4_roc"].axes
    x, y = axes.lines[0].get_xydata().T
    np.testing.assert_allclose(y, np.mean([np.interp(x, *curve) for curve in curves[:2]], axis=0))
    np.testing.assert_allclose(axes.lines[2].get_data(), curves[4])
    np.testing.assert_array_equal(axes.lines[3].get_xydata(), [[0, 0], [1, 1]])                          # chance
    first, second, third = texts(axes.get_legend().get_texts())
    assert first.startswith(f"a, 2 runs: {aucs[:, 1].mean():.1f} % (") and second.startswith("b_$x$, 2 runs: ")
    low, high = (100 * end for end in results[4]["interval"])
    assert third == f"alone: {alone:.1f} % ({low:.1f} to {high:.1f})"
    axes, = drawn["fig7_gap"].axes
    gaps = [np.mean([one[key] for one in results[k:k + 2]]) for key in ("gap", "gap_psnr") for k in (0, 2, 4)]
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], gaps)
    assert texts(axes.texts) == [f"{gap:.3f}" for gap in gaps]

    # The interval is left out where it is another AUC's, as that of a macro average.
    (folders[4] / "results.json").write_text(json.dumps(results[4] | {"auc": 0.5, "config": CONFIG}))
    axes, = draw(folders[4:], "--figures", 4)["fig4_roc"].axes
    assert texts(axes.get_legend().get_texts())[0].endswith(" %")


def test_seeds_lie_on_the_line_of_their_row():
    """Bars at the means, a diamond at the published value; a row without a run is an empty line."""
    rows = [("one", 97.0, {"auc": 0.90, "auc_psnr": 0.80}), ("one", 97.0, {"auc": 0.94, "auc_psnr": 0.81}),
            ("two", None, {"auc": 0.88}), ("none yet", None, {})]
    figure = plan_figure("a title", [{"row": name, "seed": seed, "published_auc": published, **results}
                                     for seed, (name, published, results) in enumerate(rows)])
    drawn = {}
    for line in figure.axes[0].lines:
        drawn.setdefault(line.get_label(), []).extend(map(tuple, line.get_xydata().round(6).tolist()))
    assert drawn == {"AUC of a seed": [(90.0, 0.0), (94.0, 0.0), (88.0, 1.0)], "AUC, mean": [(92.0, 0.0), (88.0, 1.0)],
                     "PSNR only, mean": [(80.5, 0.0)], "published": [(97.0, 0.0)]}
    assert texts(figure.axes[0].get_yticklabels()) == ["one", "two", "none yet"]
    assert sorted(texts(figure.legends[0].get_texts())) == sorted(drawn)


@pytest.mark.slow
def test_all_figures_as_real_files(tmp_path):
    """PNG of 300 dots per inch and PDF with TrueType text, the same bytes again; what cannot be drawn is said."""
    evaluation, out = tmp_path / "a_$x$_b" / "evaluation_last", tmp_path / "out"
    write_evaluation(evaluation)
    write_evaluation(tmp_path / "theirs", None, weights={"score": -1.0})
    write_evaluation(tmp_path / "normal", CONFIG | {"seed": 1, "loss": {"margin": 2.0}}, abnormal=False)
    (evaluation / "sweep_gamma.csv").write_text("gamma,auc\n0.012,0.8\n0,0.5\n")
    save_maps(evaluation / "maps.npz", [FrameMap("v_$x$_2", 5, "miss", 0.1, 1, *2 * [np.zeros((8, 8, 1), np.uint8)],
                                                 np.ones((8, 8), np.float32))])
    argv = evaluation, tmp_path / "theirs", tmp_path / "normal", "--out", out
    result = run(script.main, *argv, "--videos", "01")
    assert result.status == 0 and not result.warnings()
    assert {tuple(line.split()[1:3]) for line in result.out.splitlines() if line.startswith("skipped")} == {
        ("fig6_errors", "theirs:"), ("fig6_errors", "normal:"), ("fig9_gamma", "theirs:"), ("fig10_lambda", "theirs:"),
        *((stem, "normal:") for stem in ("fig4_roc", "fig7_gap", "fig9_gamma", "fig10_lambda"))}
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    stems = {"fig4_roc", "fig5_curves_a__x__b_1", "fig5_curves_theirs_1", "fig5_curves_normal_1",
             "fig6_errors_a__x__b_1", "fig7_gap", "fig9_gamma", "fig10_lambda"}
    assert set(written) == {f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf")}
    run(script.main, *argv, "--figures", 7)
    assert all((out / f"fig7_gap.{kind}").read_bytes() == written[f"fig7_gap.{kind}"] for kind in ("png", "pdf"))
    for stem in stems:
        pixels = cv2.imdecode(np.frombuffer(written[f"{stem}.png"], np.uint8), cv2.IMREAD_COLOR)
        assert pixels.shape[1] in (1050, 2148) and pixels.std() > 10
        assert (pixels[[0, -1]] > 200).all()                                              # nothing is cut at its edges
        assert b"/FontFile2" in written[f"{stem}.pdf"] and b"/Type3" not in written[f"{stem}.pdf"]
    assert "none of the videos 99" in run(script.main, evaluation, "--figures", 5, "--videos", 99).out
    for wrong, word in ((["empty"], "empty"), (["theirs", "--names", "x", "y"], "1 runs"),
                        (["theirs", tmp_path / "theirs"], "a different one for")):
        assert word in sentence(run(script.main, tmp_path / wrong[0], *wrong[1:], "--out", out))


def test_names_without_a_font_get_one_remark(tmp_path):
    figures.remark.cache_clear()
    page, = curve_pages([VideoScores("监控录像", np.arange(9), {}, np.zeros(9, np.uint8))], [np.linspace(0, 1, 9)])
    with warnings.catch_warnings(record=True, action="always") as said:
        figures.save_figure(page, tmp_path / "a")
        figures.save_figure(page, tmp_path / "b")
    assert ["Noto Sans CJK" in str(w.message) for w in said] == [True] * (len(matplotlib.rcParams["font.family"]) == 1)
