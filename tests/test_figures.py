"""The figures show the numbers that are in the files, under the names that the user gave."""

import json
import warnings

import cv2
import matplotlib
import numpy as np
import pytest
from helpers import load_script, run, sentence, shell
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

from lgn_net.report import figures
from lgn_net.report.figures import curve_pages, draw_maps, gap_figure, look, sweep_figure, write_curves
from lgn_net.report.plan_pictures import plan_figure
from lgn_net.scores.maps import FrameMap, frame_map, load_maps, save_maps
from lgn_net.scores.protocols import PAPER, measure, normality_under
from lgn_net.scores.results import Results, read_results, write_results
from lgn_net.scores.score_file import VideoScores, write_scores

script = load_script("scripts/make_figures.py")
WEIGHTS = {"psnr": 0.6, "distance": -0.4}
CONFIG = {"seed": 0, "model": {"read_grad": False, "memory_items": 10}, "loss": {"margin": 1.0},
          "score": {"psnr_weight": 0.6, "gamma": 0.009, "normalize": "video", "smoothing": 0.0, "average": "micro"}}
SWEEP = "gamma,auc,memory_updates,frames\n0.012,0.8,20,40\n0,0.5,0,40\n0.006,0.7,10,40\n0.02,,40,40\n"


def write_evaluation(folder, weights=WEIGHTS, config=CONFIG, seed=0, names=("01", "v_$x$_2"), abnormal=True):
    """A folder as evaluate.py leaves it; returns its scores with the normality."""
    random, videos = np.random.default_rng(seed), []
    for name in names:
        labels = np.zeros(40, np.uint8)
        labels[10:20] = labels[37:] = abnormal
        signals = {key: np.round(random.normal(size=40) - np.sign(weight) * labels, 1)
                   for key, weight in weights.items()}
        videos.append(VideoScores(name, np.arange(4, 44), signals, labels))
    normal = normality_under(PAPER, videos, weights)
    videos = [video._replace(signals=video.signals | {"normality": x}) for video, x in zip(videos, normal)]
    write_scores(folder / "scores.csv", videos)
    write_results(folder / "results.json", Results(**vars(measure(videos, weights)), dataset="ped2", label_source=None,
                                                   protocol=str(PAPER), signals=weights, config=config))
    return videos


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Run the script: {name of the file: Figure, or the sentence that says why not}."""
    save = script.figures.save_figure

    def call(folders, *argv):
        kept = {}
        monkeypatch.setattr(script.figures, "save_figure",
                            lambda figure, path: save(kept.setdefault(path.name, figure), path))
        result = run(script.main, *folders, *argv, "--out", tmp_path / "out")
        assert result.status in (0, 1), result
        lines = [line.split(maxsplit=2) for line in result.out.splitlines()]
        return {stem: why for state, stem, why in lines if state != "written"} | kept

    return call


def texts(artists):
    """What is written on them, on one line each."""
    return [" ".join(artist.get_text().split()) for artist in artists]


def test_roc_points_and_their_auc_are_scikit_learns(tmp_path, draw):
    """The curve, and the legend's AUC with the interval of results.json; two runs differ in dashes and colour."""
    videos = [write_evaluation(tmp_path / name / "evaluation_last", seed=seed)
              for seed, name in enumerate(("first", "second"))]
    axes, = draw([tmp_path / "first", tmp_path / "second"], "--figures", 4)["fig4_roc"].axes
    for line, text, name, scores in zip(axes.lines, texts(axes.get_legend().get_texts()), ("first", "second"), videos):
        labels, normal = (np.concatenate(x) for x in ([video.labels for video in scores],
                                                      [video.signals["normality"] for video in scores]))
        false_positive, true_positive, _ = roc_curve(labels, -normal, drop_intermediate=False)
        np.testing.assert_allclose(line.get_xydata(), np.stack([false_positive, true_positive], axis=1))
        low, high = read_results(tmp_path / name / "evaluation_last" / "results.json").interval
        assert text == f"{name}: {100 * roc_auc_score(labels, -normal):.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    assert axes.lines[0].get_linestyle() != axes.lines[1].get_linestyle()
    assert axes.lines[0].get_color() != axes.lines[1].get_color()
    np.testing.assert_array_equal(axes.lines[2].get_xydata(), [[0, 0], [1, 1]])                          # chance

    path = tmp_path / "first" / "evaluation_last" / "results.json"          # of a macro average: another AUC's interval
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auc": 0.5}))
    axes, = draw([tmp_path / "first"], "--figures", 4)["fig4_roc"].axes
    assert texts(axes.get_legend().get_texts())[0].endswith(" %")


def made(name, frames, labels):
    """Scores of a video, of which the curves take no signal."""
    return VideoScores(name, frames, {}, labels)


def test_curves_and_shading():
    """Half a frame to either side of an abnormal period; normality beyond [0, 1] is not cut off."""
    videos = [made("a_$x$_b", np.arange(4, 10), np.array([1, 0, 0, 1, 1, 0])), made("c", np.array([7]), np.array([1]))]
    normality = [np.array([0.0, -3.0, 2.0, 20.0, 1.0, 0.5]), np.array([4.0])]
    figure, = curve_pages(videos, normality)
    spans = [[tuple(patch.get_bbox().intervalx) for patch in axes.patches] for axes in figure.axes]
    assert spans == [[(3.5, 4.5), (6.5, 8.5)], [(6.5, 7.5)]]
    for axes, video, x in zip(figure.axes, videos, normality):
        np.testing.assert_array_equal(axes.lines[0].get_xydata(), np.stack([video.frames, x], axis=1))
        low, high = axes.get_ylim()
        assert low <= -3 and high >= 20
    assert figure.axes[0].get_title() == "a_$x$_b" and not figure.axes[0].title.get_parse_math()


def test_curves_of_an_evaluation(tmp_path):
    """Twelve videos on the first page, the thirteenth on the second; earlier pages are gone; one frame is enough."""
    (tmp_path / "curves_3.png").write_bytes(b"old")
    videos = [made(f"{n:02d}", np.arange(4, 4 + n), np.arange(n) % 2) for n in range(13, 0, -1)]
    write_curves(videos, [np.linspace(0, 1, len(video.frames)) for video in videos], "a_$t$", tmp_path)
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == ["curves_1.png", "curves_2.png"]
    tall, low = (cv2.imread(str(path)) for path in paths)
    assert tall.shape[1] > 2 * low.shape[1] and tall.shape[0] > 2 * low.shape[0]                       # 12; 1


def test_aspect_of_recorded_frames(tmp_path):
    """The frame's file gives it, and maps.npz keeps it."""
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((20, 50, 3), np.uint8))
    one = frame_map("01", 0, "miss", 0.5, 1, *2 * [np.zeros((3, 8, 8), np.float32)], str(tmp_path / "0.png"))
    save_maps(tmp_path / "maps.npz", [one])
    assert load_maps(tmp_path / "maps.npz")[0].aspect == 2.5


def test_error_maps():
    """Blue-green-red is shown as red-green-blue, errors on one scale, the box where it is, in the frame's aspect."""
    image = np.zeros((4, 6, 3), np.uint8)
    image[..., 0] = 200                                                                                  # blue
    maps = [FrameMap("v_$1$", k, "miss", 0.5, 1, image, image[..., :1] // 2, np.full((4, 6), k, np.float32),
                     (1, 2, 4, 3), 3.0) for k in range(8)]
    first, second = draw_maps(maps)
    panels = first.axes[:4]
    assert panels[0].images[0].get_array()[0, 0].tolist() == [0, 0, 200]
    assert panels[1].images[0].get_array()[0, 0] == 100
    assert {axes.images[0].norm.vmax for page in (first, second) for axes in page.axes[2:-1:4]} == {7.0}
    assert [axes.get_aspect() for axes in panels] == [0.5] * 4                                   # 6 x 4 pixels as 3 : 1
    assert panels[3].patches[0].get_bbox().bounds == (0.5, 1.5, 3, 1)
    assert panels[0].get_ylabel() == "v_$1$\nframe 0\nmiss\nabnormal\nnormality 0.50"
    assert len(second.axes) == 2 * 4 + 1


def test_gap_values_are_written_on_their_bars():
    figure = gap_figure({"ped2": {"a": 0.25, "_b": -0.125}, "avenue": {"c": 0.5}})
    assert [[bar.get_width() for bar in axes.patches] for axes in figure.axes] == [[0.25, -0.125], [0.5]]
    for axes, names, values in zip(figure.axes, (["a", "_b"], ["c"]), (["0.250", "-0.125"], ["0.500"])):
        assert texts(axes.get_yticklabels()) == names and texts(axes.texts) == values
        np.testing.assert_allclose([bar.get_center()[1] for bar in axes.patches], axes.get_yticks(), atol=1e-9)


def test_seeds_lie_on_the_line_of_their_row():
    """Bars at the means, a diamond at the published value; a row without a run is an empty line."""
    rows = [("one", 97.0, {"auc": 0.90, "auc_psnr": 0.80}), ("one", 97.0, {"auc": 0.94, "auc_psnr": 0.81}),
            ("two", None, {"auc": 0.88}), ("none yet", None, {})]
    figure = plan_figure("a title", [{"row": name, "seed": seed, "published_auc": published, "results": results}
                                     for seed, (name, published, results) in enumerate(rows)])
    drawn = {}
    for line in figure.axes[0].lines:
        drawn.setdefault(line.get_label(), []).extend(map(tuple, line.get_xydata().round(6).tolist()))
    assert drawn == {"AUC of a seed": [(90.0, 0.0), (94.0, 0.0), (88.0, 1.0)], "AUC, mean": [(92.0, 0.0), (88.0, 1.0)],
                     "PSNR only, mean": [(80.5, 0.0)], "published": [(97.0, 0.0)]}
    assert texts(figure.axes[0].get_yticklabels()) == ["one", "two", "none yet"]
    assert sorted(texts(figure.legends[0].get_texts())) == sorted(drawn)


def test_lambda_ends_are_the_single_signals(tmp_path, draw):
    """0: the distance alone, 1: the PSNR alone; a ring at the run's own lambda, whose AUC is that of results.json."""
    write_evaluation(tmp_path / "loc_net", weights={"psnr": 1.0})
    assert "only psnr" in draw([tmp_path / "loc_net"], "--figures", 10)["fig10_lambda"]
    write_evaluation(tmp_path)
    results = read_results(tmp_path / "results.json")
    curve, ring = (line.get_xydata() for line in draw([tmp_path], "--figures", 10)["fig10_lambda"].axes[0].lines)
    np.testing.assert_allclose(curve[:, 0], np.arange(51) / 50)
    np.testing.assert_allclose(curve[[0, -1], 1], [100 * results.auc_of[name] for name in ("distance", "psnr")])
    np.testing.assert_allclose(ring, [[0.6, 100 * results.auc]])


def test_gamma_curves_from_the_sweeps_file(tmp_path, draw):
    """Sorted by gamma, an undefined AUC is a gap, the updates in percent of the frames, a ring at the run's gamma."""
    write_evaluation(tmp_path)
    (tmp_path / "sweep_gamma.csv").write_text(SWEEP)
    figure = draw([tmp_path], "--figures", 9)["fig9_gamma"]
    (curve, ring), (updates, _) = ([line.get_xydata() for line in axes.lines] for axes in figure.axes)
    np.testing.assert_allclose(curve, [[0, 50], [0.006, 70], [0.012, 80], [0.02, np.nan]])
    np.testing.assert_allclose(updates[:, 1], [0, 25, 50, 100])
    np.testing.assert_allclose(ring, [[0.009, 75]])


def test_sweeps_take_rows_and_one_value_for_all():
    """As scripts/sweep.py calls them, with None for an undefined AUC; a wide range of gammas is spread."""
    rows = [{"gamma": x, "lambda": x, "auc": y, "memory_updates": 1, "frames": 4}
            for x, y in ((0, 0.5), (1e-4, None), (1.0, 0.9))]
    for knob, scale in (("gamma", "symlog"), ("lambda", "linear")):
        axes = sweep_figure(knob, {"a": rows, "_$b$": rows}, 1.0).axes[0]
        lines = axes.lines
        assert [line.get_xydata().tolist() for line in lines if len(line.get_xdata()) == 1] == 2 * [[[1.0, 90.0]]]
        assert axes.get_xscale() == scale


def test_variants_are_named_by_what_differs(tmp_path, draw):
    """Two seeds of one variant share a line of the legend; what differs beside model and loss is warned of."""
    other = CONFIG | {"model": CONFIG["model"] | {"read_grad": True}, "score": CONFIG["score"] | {"gamma": 0.5}}
    for seed, config in enumerate((CONFIG, CONFIG | {"seed": 1}, other)):
        write_evaluation(tmp_path / f"run{seed}", seed=seed, config=config)
    runs = [tmp_path / f"run{k}" for k in range(3)]
    axes, = draw(runs, "--figures", 8)["fig8_variants"].axes
    a, b = texts(axes.get_legend().get_texts())
    assert a.startswith("read_grad false: ") and "mean of 2 runs" in a
    assert b.startswith("read_grad true: ") and "mean" not in b
    assert axes.lines[0].get_color() == axes.lines[1].get_color() != axes.lines[2].get_color()
    assert "score.gamma" in run(script.main, *runs, "--figures", 8, "--out", tmp_path / "out").warnings()[0]
    named = draw(runs, "--figures", 8, "--names", "$a$", "_b", "c")["fig8_variants"].axes[0].get_legend().get_texts()
    assert [text.split(":")[0] for text in texts(named)] == ["$a$", "_b", "c"]
    assert "no two runs" in draw(runs[:2], "--figures", 8)["fig8_variants"]


def test_runs_are_named_by_their_folders(tmp_path):
    """The run's, not its evaluation's; where two are alike, as the user typed them."""
    for run_folder in ("a/run", "b/run", "c"):
        write_evaluation(tmp_path / run_folder / "evaluation_last")
    for folders, names in ((["a/run", "c"], ["run", "c"]), (["a/run", "b/run"], None)):
        typed = [str(tmp_path / folder) for folder in folders]
        assert [one.name for one in script.open_runs(typed, None)] == (names or typed)


@pytest.mark.slow
def test_all_figures_as_real_files(tmp_path, draw):
    """PNG of 300 dots per inch and PDF with TrueType text, for a run with odd names; made again, the same bytes."""
    evaluation, out, before = tmp_path / "a_$x$_b" / "evaluation_last", tmp_path / "out", dict(matplotlib.rcParams)
    write_evaluation(evaluation)
    write_evaluation(tmp_path / "c", config=CONFIG | {"loss": {"margin": 2.0}}, seed=1)
    (evaluation / "sweep_gamma.csv").write_text(SWEEP)
    save_maps(evaluation / "maps.npz", [FrameMap("v_$x$_2", 5, "top", 0.1, 1, *2 * [np.zeros((8, 8, 1), np.uint8)],
                                                 np.ones((8, 8), np.float32), (0, 0, 2, 2))])
    drawn = draw([evaluation, tmp_path / "c"])
    figures = {stem: figure for stem, figure in drawn.items() if isinstance(figure, Figure)}
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(figures) == {"fig4_roc", "fig5_curves_a__x__b", "fig5_curves_c", "fig6_errors_a__x__b", "fig7_gap",
                            "fig8_variants", "fig9_gamma", "fig10_lambda"}
    assert set(written) == {f"{stem}.{kind}" for stem in figures for kind in ("png", "pdf")}
    run(script.main, evaluation, tmp_path / "c", "--figures", 7, "--out", out)
    assert all((out / f"fig7_gap.{kind}").read_bytes() == written[f"fig7_gap.{kind}"] for kind in ("png", "pdf"))
    for stem, figure in figures.items():
        pixels = cv2.imdecode(np.frombuffer(written[f"{stem}.png"], np.uint8), cv2.IMREAD_COLOR)
        assert abs(pixels.shape[1] - 300 * figure.get_figwidth()) < 1 and pixels.std() > 10
        assert (pixels[[0, -1]] > 200).all()                                              # nothing is cut at its edges
        assert b"/FontFile2" in written[f"{stem}.pdf"] and b"/Type3" not in written[f"{stem}.pdf"]
        words = figure.findobj(lambda artist: hasattr(artist, "get_fontsize"))
        assert all(text.get_fontsize() >= 7 for text in words)
        if stem in ("fig4_roc", "fig7_gap", "fig9_gamma", "fig10_lambda"):
            assert any("a_$x$_b" in text.replace(" ", "") for text in texts(words)), stem
    assert dict(matplotlib.rcParams) == before


def test_another_programs_scores_and_one_class(tmp_path):
    """What cannot be drawn is said, run by run; nothing crashes on an undefined AUC."""
    write_evaluation(tmp_path / "theirs", weights={"score": -1.0}, config=None)
    write_evaluation(tmp_path / "normal", abnormal=False)
    result = run(script.main, tmp_path / "theirs", tmp_path / "normal", "--out", tmp_path / "out")
    assert result.status == 0 and not result.warnings()
    lines = [line.split(maxsplit=2) for line in result.out.splitlines()]
    listed = {state: [(stem, rest.split(":")[0]) for other, stem, rest in lines if other == state]
              for state in ("written", "without", "skipped")}
    assert [stem for stem, _ in listed["written"]] == \
        ["fig4_roc", "fig5_curves_theirs", "fig5_curves_normal", "fig7_gap"]
    assert listed["without"] == [("fig4_roc", "normal"), ("fig7_gap", "normal")]
    assert [(stem, name) for stem, name in listed["skipped"] if stem != "fig8_variants"] == [
        (stem, name) for stem in ("fig6_errors", "fig9_gamma", "fig10_lambda") for name in ("theirs", "normal")]
    nothing = run(script.main, tmp_path / "normal", "--figures", 4, "--out", tmp_path / "none")
    assert nothing.status == 1 and not list(tmp_path.glob("none/*"))


def test_chosen_videos(tmp_path, draw):
    write_evaluation(tmp_path)
    figure = draw([tmp_path], "--figures", 5, "--videos", "v_$x$_2")["fig5_curves"]
    assert [axes.get_title() for axes in figure.axes] == ["v_$x$_2"] and figure.get_figwidth() == 3.5
    assert "none of the videos 99" in draw([tmp_path], "--figures", 5, "--videos", 99)["fig5_curves"]


@pytest.mark.parametrize(("argv", "expected"), [
    (["empty"], "holds no evaluation"),
    (["a", "--names", "x", "y"], "give 1 different ones"),
    (["a", "a"], "the same evaluation"),
    (["a", "b"], "sweep_gamma.csv lacks the column memory_updates"),
])
def test_errors_are_a_sentence_and_nothing_is_written(tmp_path, argv, expected):
    (tmp_path / "empty").mkdir()
    for name in "ab":
        write_evaluation(tmp_path / name)
    (tmp_path / "b" / "sweep_gamma.csv").write_text("gamma,auc,frames\n0,0.5,40\n")
    paths = [tmp_path / word if (tmp_path / word).is_dir() else word for word in argv]
    assert expected in sentence(run(script.main, *paths, "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_starts_without_torch_and_pyplot(tmp_path):
    write_evaluation(tmp_path)
    watch = "import runpy, sys; sys.argv = sys.argv[1:]\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\n" \
            "finally: assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    result = shell("-c", watch, "scripts/make_figures.py", tmp_path, "--figures", "7", "--out", tmp_path / "out")
    assert result.status == 0 and (tmp_path / "out" / "fig7_gap.pdf").is_file(), result


def test_seven_curves_differ_in_dashes_and_in_grey():
    """No two of the first seven share their dashes, no fourteen both dashes and marker; each colour is dark enough."""
    looks = [look(k) for k in range(14)]
    assert len({str(one["linestyle"]) for one in looks[:7]}) == 7
    assert len({(str(one["linestyle"]), one["marker"]) for one in looks}) == 14
    assert all(np.dot(to_rgb(one["color"]), (0.3, 0.59, 0.11)) < 0.75 for one in looks)


def test_names_without_a_font_get_one_remark(tmp_path):
    figures.remark.cache_clear()
    page, = curve_pages([VideoScores("监控录像", np.arange(9), {}, np.zeros(9, np.uint8))], [np.linspace(0, 1, 9)])
    with warnings.catch_warnings(record=True, action="always") as said:
        figures.save_figure(page, tmp_path / "a")
        figures.save_figure(page, tmp_path / "b")
    assert ["Noto Sans CJK" in str(w.message) for w in said] == [True] * (len(figures.STYLE["font.family"]) == 1)
