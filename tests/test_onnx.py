"""scripts/export_onnx.py and the example of docs/deploy.md: the scores of PyTorch, on real frames."""

import re

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT, load_script, run, shell
from test_footage import write

from lgn_net import AnomalyDetector

export = load_script("scripts/export_onnx.py")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ped2_small", "ped2_mnad_small"])
def test_file_scores_ped2_as_pytorch_does(shared_data, tmp_path, name):
    """The exported file, and the very text of docs/deploy.md, on the first second of Ped2's test video 04."""
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    pytest.importorskip("onnxscript", reason="needs onnxscript")
    weights, model = ROOT / f"weights/{name}.pt", tmp_path / "model.onnx"
    assert run(export.main, weights, "--out", model).status == 0
    frames = [cv2.imread(str(path)) for path in sorted((shared_data / "ped2/testing/frames/04").iterdir())[30:60]]

    # The outputs, for batches of several sizes.
    detector = AnomalyDetector.load(weights, "cpu")
    scorer = export.Scorer(detector)
    small = np.stack([cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), (96, 96)) for frame in frames])[:, None]
    windows = np.stack([small[t:t + 5] for t in range(26)]).astype(np.float32) / 127.5 - 1
    session = runtime.InferenceSession(model)
    for batch in windows[:1], windows[1:]:
        with torch.inference_mode():
            expected = scorer(torch.from_numpy(batch))
        found = session.run(list(expected), {"window": batch})
        assert list(expected) == ["prediction", "psnr", "distance", "regular_score", "normality"]
        for (output, x), y in zip(expected.items(), found):
            np.testing.assert_allclose(y, x, rtol=1e-5, atol=1e-5, err_msg=output)
            print(name, output, len(batch), abs(y - x.numpy()).max())              # the table in docs/deploy.md

    # The example.
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/deploy.md").read_text(), re.DOTALL)[1]
    assert len(code.splitlines()) <= 30 and "torch" not in code and "lgn_net" not in code
    done = shell("-c", code, model, write(tmp_path / "ped2.avi", frames, "ffv1", "bgr0"))
    lines = [line.split() for line in done.out.splitlines()]
    normality = detector.score(frames).normality[4:]
    assert [int(line[0]) for line in lines] == list(range(4, 30)), done.err
    assert [float(line[1]) for line in lines] == pytest.approx(normality, abs=2e-4)
    assert [line[2:] == ["low"] for line in lines] == (normality < detector.limit()).tolist()
