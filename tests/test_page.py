"""The report: written from drawn scores, opened in a real browser."""

import base64
import html
import re
import shutil
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from lgn_net.report.page import write_report
from lgn_net.report.tables import percent
from lgn_net.scores.maps import FrameMap
from lgn_net.scores.metrics import mistakes, operating_point, padded_chance, roc
from lgn_net.scores.protocols import PAPER, compare, grid, measure, normality_under, paper_weights
from lgn_net.scores.score_file import VideoScores

NAMES = ["<img src=x onerror=alert(1)>", "a&b</script><script>alert(1)</script>", "a_name_without_spaces_" * 6]
NASTY = "<img src=x onerror=alert(1) title=\"x\">&amp;'%{x}</script>"
WEIGHTS = paper_weights(0.6)


def drawn_map(kind, level, channels=3):
    """A frame of 64 x 96 pixels, recorded three times as wide as high, with errors of `level` in three squares."""
    y, x = np.mgrid[:64, :96]
    image = np.repeat((x + 2 * y)[..., None].astype(np.uint8), channels, axis=2)
    error = np.zeros((64, 96), np.float32)
    for x0, y0, x1, y1 in ((12, 16, 36, 48), (60, 8, 84, 32), (60, 50, 68, 58)):
        error[y0:y1, x0:x1] = level
    return FrameMap(NAMES[0], 12, kind, 0.125, 1, image, image // 2, error, 3.0)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with everything in it: its path and content, the words that a reader sees, and what it was made of."""
    # Videos whose second half is abnormal, and one that is it throughout; frames from 4 on, every tenth is missing.
    videos = []
    for v, (name, n) in enumerate(zip(NAMES, (400, 300, 5))):
        random, labels = np.random.default_rng(v), np.arange(n) >= (n // 2 if v < 2 else 0)
        videos.append(VideoScores(name, np.array([t for t in range(4, 4 + 2 * n) if t % 10][:n]), {
            "psnr": random.normal(30 - 2.0 * labels, 2), "distance": random.random(n) * 1e-4,
            "regular_score": random.random(n), "memory_updated": random.integers(0, 2, n).astype(float),
            NASTY: random.random(n) * 1000}, labels.astype(np.uint8)))
    cells = grid(videos, WEIGHTS).items()
    results = measure(videos, WEIGHTS) | {
        "identity": NASTY, "published": None, "dataset": NASTY, "labels": "/a/long/path/" * 12, "checkpoint": NASTY,
        "label_source": None, "protocol": str(PAPER), "signals": WEIGHTS, "memory_updates": 7,
        "versions": {"git": NASTY}, "config": {"data": {"dataset": NASTY}, "score": {"gamma": 0.009}},
        "compared": {"other": NASTY} | compare(videos, videos, (WEIGHTS, WEIGHTS)),
        "memories": [{"live_items": 2, "queries_of_item": [3, 0, 1], "item_cosine": 0.5}],
        "grid": [{"labels": name, **cell._asdict(), "auc": value} for name in (NASTY, None) for cell, value in cells],
        "padded_chance": {NASTY: 0.6, "": padded_chance([video.labels for video in videos])}}
    maps = [drawn_map("miss", 0.1), drawn_map("false alarm", 0.2), drawn_map(NASTY, 0.0, channels=1)]
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, results, videos, normality_under(PAPER, videos, WEIGHTS), maps)
    page = path.read_text()
    words = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)
    return SimpleNamespace(path=path, page=page, words=html.unescape(" ".join(words.split())), videos=videos,
                           results=results, maps=maps)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium without a window."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(programs):
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in ("headless=new", "no-sandbox", "disable-gpu", f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    yield driver
    driver.quit()


def open_page(browser, path, width=1400, phone=False, scheme="light"):
    """Open a report; nothing may go wrong, and its policy lets it ask nothing of a network."""
    from selenium.webdriver.support.wait import WebDriverWait
    for command, values in (
            ("setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": phone}),
            ("setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})):
        browser.execute_cdp_cmd(f"Emulation.{command}", values)
    browser.get_log("browser")
    browser.get(path.as_uri())
    WebDriverWait(browser, 10).until(
        lambda _: browser.execute_script("return !document.querySelector('.plot:not(.js-plotly-plot)')"))
    assert [line for line in browser.get_log("browser") if line["level"] != "INFO"] == []


LAYOUT = """
    let page = document.documentElement, plots = [...document.querySelectorAll(".plot")];
    let picture = document.querySelector(".picture img");
    return {overhang: page.scrollWidth - page.clientWidth,
            wrong: plots.filter(e => Math.abs(e.querySelector(".main-svg").clientWidth - e.clientWidth) > 1).length,
            columns: new Set([...document.querySelectorAll("#curves figure")].map(e => e.offsetLeft)).size,
            cut: [...document.querySelectorAll(".grid")].filter(e => e.scrollWidth > e.parentNode.clientWidth).length,
            aspect: picture.clientWidth / picture.clientHeight,
            colours: [getComputedStyle(document.body).backgroundColor, curve0._fullLayout.font.color]}"""


@pytest.mark.slow
def test_page_fits_a_desktop_and_a_phone(browser, report):
    """Nothing is cut, plots fill their boxes, pictures have the frame's aspect, colours follow the reader's scheme."""
    for width, phone, scheme, columns, colours in ((1400, False, "light", 3, ["rgb(255, 255, 255)", "#1a1a1a"]),
                                                   (390, True, "dark", 1, ["rgb(24, 26, 27)", "#e6e6e6"])):
        open_page(browser, report.path, width, phone, scheme)
        assert browser.execute_script(LAYOUT) == {"overhang": 0, "wrong": 0, "cut": 0, "columns": columns,
                                                  "aspect": pytest.approx(3, rel=0.05), "colours": colours}


@pytest.mark.slow
def test_plots_hold_the_numbers(browser, report):
    """Abnormal periods half a frame to either side, false alarms and misses, the ROC; names as they are, no script."""
    videos = report.videos
    normal = normality_under(PAPER, videos, WEIGHTS)
    curve = roc([video.labels for video in videos], normal)
    point = operating_point(*curve, np.concatenate(normal))
    open_page(browser, report.path)
    shown = browser.execute_script("let {hovertemplate, text, customdata} = curve1._fullData[0];"
                                   "return [hovertemplate, text.slice(-1)[0], Array.from(customdata[7])]")
    nasty = re.sub("[<>&%]", lambda sign: f"&#{ord(sign[0])};", NASTY)
    assert shown[0].startswith("frame %{x}<br>normality %{y:.4f}<br>label %{text}<br>psnr %{customdata[0]:.4g}<br>")
    assert f"<br>{nasty} %{{customdata[4]:.4g}}<extra>" in shown[0] and shown[1] == "abnormal"
    np.testing.assert_allclose(shown[2], [x[7] for x in videos[1].signals.values()], rtol=1e-6)
    spans = browser.execute_script("return [curve0, curve1, curve2].map(plot => plot.layout.shapes.filter("
                                   "s => s.type == 'rect').map(s => [s.x0, s.x1]))")
    assert spans == [[[video.frames[video.labels == 1][0] - 0.5, video.frames[-1] + 0.5]] for video in videos]
    found = browser.execute_script("return [curve0, curve1, curve2].map(plot => plot.calcdata.slice(1).map("
                                   "marks => marks.map(p => p.x).filter(x => x !== undefined)))")
    assert found == [[video.frames[wrong].tolist() for wrong in mistakes(video.labels, x, point)]
                     for video, x in zip(videos, normal)]
    points = np.array(browser.execute_script("return roc.calcdata[1].map(p => [p.x, p.y])"))
    np.testing.assert_allclose(points.T, curve, atol=1e-6)

    titles = "return [...document.querySelectorAll('figure[id^=v] h3')].map(e => e.firstChild.data.trim())"
    assert browser.execute_script(titles) == NAMES
    words = browser.execute_script("document.querySelector('details').open = true; return document.body.innerText")
    assert words.count(NASTY) >= 8 and "&lt;" not in words and "&#" not in words
    browser.execute_script("document.body.insertAdjacentHTML('beforeend', arguments[0])",
                           "<img src=x onerror='window.ran = 1'>")                    # what escaping might have missed
    time.sleep(0.3)
    assert browser.execute_script("return window.ran") is None


def test_headline_and_tables_hold_the_numbers(report):
    results = report.results
    for expected in (*(f"{name} {percent(results[key])} %" for name, key in {
                         "AUC": "auc", "equal error rate": "eer", "chance": "chance", "AUC, PSNR only": "auc_psnr",
                         "average precision": "average_precision", "AUC, distance only": "auc_distance"}.items()),
                     f"95 % interval {percent(results['interval'][0], 1)} to", "memory updates 7", "score.gamma 0.009",
                     "signals.psnr 0.6", f"at random reach {percent(results['padded_chance'][''], 1)} % there",
                     *(f"{row['video']} {row['frames']} {row['abnormal_frames']} {percent(row['auc'])} "
                       f"{row['mean_normality']:.3f}" for row in results["per_video"])):
        assert expected in report.words
    assert re.findall(r"<td><b>(.*?)</b>", report.page) == 2 * [percent(results["auc"])]
    tables = "".join(re.findall(r'<table class="grid">.*?</table>', report.page, re.DOTALL))
    shown = [re.sub("<.*?>", "", cell).strip() for cell in re.findall(r"<td>(.*?)</td>", tables, re.DOTALL)]
    assert [text for k, text in enumerate(shown) if k % 5] == [percent(cell["auc"]) for cell in results["grid"]]


def test_error_maps_are_on_one_scale(report):
    """Frame, prediction, error and both; boxes in percent of the frame, around what holds half of the strongest."""
    page, words, maps = report.page, report.words, report.maps
    images = [cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)
              for text in re.findall(r'<img src="data:image/\w+;base64,([^"]*)" style', page)]
    assert len(images) == 12 and "0.2 or more" in words and words.count("normality 0.125 labelled abnormal") == 3
    for k, m in enumerate(maps):
        frame, prediction, error, overlay = images[4 * k:4 * k + 4]
        share = m.error / 0.2
        heat = cv2.applyColorMap(np.round(255 * share + 1e-3).astype(np.uint8), cv2.COLORMAP_INFERNO)
        assert np.abs(frame.astype(int) - m.image).mean() < 4
        assert np.abs(prediction.astype(int) - m.prediction).mean() < 4
        assert (error == heat).all()
        assert np.abs(overlay - (m.image * (1 - share[..., None]) + share[..., None] * heat)).mean() < 4
    boxes = [[float(number) for number in found] for found in re.findall(
        r'class="box(?: second)?" style="left: (.*?)%; top: (.*?)%;\s+width: (.*?)%; height: (.*?)%"', page)]
    drawn = [[12.5, 25, 25, 50], [62.5, 12.5, 25, 37.5]]
    assert np.array(boxes) == pytest.approx(np.array([*drawn, *drawn, [0, 0, 100, 100]]), abs=3.2)
    assert page.count('"box second" style') == 2
