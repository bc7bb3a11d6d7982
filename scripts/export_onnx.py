"""Write a network as one ONNX file, which scores windows of frames without PyTorch, and check it by ONNX Runtime.

    python scripts/export_onnx.py weights/ped2_small.pt --out model.onnx

docs/deploy.md says what goes into the file and what comes out. Memory items and calibration are constants in it.
"""

from pathlib import Path

from lgn_net.cli import Parser, show_help

PARSER = Parser(__doc__)
PARSER.add_argument("checkpoint", help="of scripts/export_weights.py")
PARSER.add_argument("--out", type=Path, required=True, help="file to write")
show_help(__name__, PARSER)     # before slow imports

import warnings

import numpy as np
import torch
from torch import Tensor, nn

from lgn_net.errors import UserError
from lgn_net.files import check_writable, replacing
from lgn_net.inference.signals import psnr, query_distance, regular_score
from lgn_net.scores.normality import calibrated
from lgn_net.scores.score_file import distance_names
from lgn_net.terminal import run_command
from lgn_net.video.detector import AnomalyDetector


class Scorer(nn.Module):
    """A detector's network, with the signals of its predictions."""

    def __init__(self, detector: AnomalyDetector):
        super().__init__()
        self.detector, self.model = detector, detector.model

    def forward(self, window: Tensor) -> dict[str, Tensor]:
        """Score windows (B, T, C, size, size) in [-1, 1] as the file does; see docs/deploy.md."""
        config, target = self.detector.config, window[:, -1]
        queries, context = self.model.encode(window[:, :config.model.input_frames])
        lookups = self.model.read(queries)
        predicted = self.model.decode(lookups, context)
        D = [query_distance(lookup, memory) for lookup, memory in zip(lookups, self.model.memories)]
        signals = {"psnr": psnr(predicted, target, config.score.psnr_peak), **dict(zip(distance_names(len(D)), D))}
        normality = calibrated(signals, self.detector.weights, self.detector.calibration)
        return {"prediction": predicted, **signals, "regular_score": regular_score(predicted, target),
                "normality": normality}


def main(argv: list[str]) -> None:
    """Export a checkpoint."""
    args = PARSER.parse_args(argv)
    check_writable(args.out.parent)
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"the export needs {error.name}: pip install onnx onnxscript onnxruntime") from None

    # Export the network, with windows of noise for an example.
    detector = AnomalyDetector.load(args.checkpoint, "cpu", {"score.kernels": "direct", "score.precision": "float32"})
    scorer, T, config = Scorer(detector).eval(), detector.config.model.window, detector.config.data
    facts = {"window": T, "channels": config.channels, "image_size": config.image_size, "threshold": detector.limit()}
    noise = 2 * torch.rand(3, T, config.channels, config.image_size, config.image_size) - 1
    with torch.inference_mode():
        expected = {name: x.numpy() for name, x in scorer(noise).items()}
    with warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(scorer, (noise,), dynamo=True, verbose=False, input_names=["window"],
                                    output_names=list(expected), dynamic_shapes={"window": {0: "batch"}})
    program.model.metadata_props.update({name: str(value) for name, value in facts.items()})
    content = program.model_proto.SerializeToString()

    # Compare the outputs, but for the normality, which divides their rounding by small spreads; write what agrees.
    found = onnxruntime.InferenceSession(content).run(list(expected), {"window": noise.numpy()})
    for (name, x), y in zip(expected.items(), found):
        if name != "normality" and not np.allclose(y, x, rtol=1e-5, atol=1e-5):
            raise UserError(f"ONNX Runtime and PyTorch differ by {abs(y - x).max():.1e} in {name}; try other versions")
    with replacing(args.out) as file:
        file.write(content)
    print(f"{args.out}: {len(content) / 1e6:.2f} MB, {facts}")


if __name__ == "__main__":
    run_command(main)
