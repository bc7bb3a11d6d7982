"""Write a network as one ONNX file, which scores windows of frames without PyTorch, and check it by ONNX Runtime.

    python scripts/export_onnx.py weights/ped2_small.pt --out model.onnx

The file takes "window" (B, T, C, size, size), T consecutive frames in [-1, 1], oldest first, and gives of the last ones
"prediction" (B, C, size, size), "psnr" (B,) in dB, "regular_score" (B,), "distance" (B, memories), and "normality" (B,)
where the checkpoint says what is normal. Memory items and calibration are constants in it. Its metadata hold T as
"window", C as "channels", "image_size", and the "threshold" below which 1 % of the normal frames lie. docs/deploy.md
scores a video with it.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lgn_net.config import Config, with_knobs
from lgn_net.errors import UserError
from lgn_net.files import check_writable, replacing
from lgn_net.inference.signals import psnr, query_distance, regular_score
from lgn_net.inference.stream import for_inference
from lgn_net.model.build import build_model
from lgn_net.scores.calibration import threshold_at
from lgn_net.scores.protocols import paper_weights
from lgn_net.scores.score_file import distance_names
from lgn_net.terminal import run_command
from lgn_net.training.checkpoint import load_checkpoint, load_weights

TOLERANCE = 1e-5              # greatest difference to PyTorch, relative to a value where that is beyond 1


class Scorer(nn.Module):
    """A network, and the signals of its predictions."""

    def __init__(self, model: Any, config: Config, calibration: dict | None):
        super().__init__()
        self.model, self.config, self.calibration = model, config, calibration

    def forward(self, window: Tensor) -> dict[str, Tensor]:
        """Score windows (B, T, C, size, size) in [-1, 1] as the file does; see there."""
        # Predict the last frame (eq. 2-3), and compare it and the queries (eq. 7-8, 13-14).
        clip, target, memories = window[:, :self.config.model.input_frames], window[:, -1], self.model.memories
        queries, context = self.model.encode(clip)
        lookups = self.model.read(queries)
        predicted = self.model.decode(lookups, context)
        D = [query_distance(lookup, memory) for lookup, memory in zip(lookups, memories)]
        signals = {"psnr": psnr(predicted, target, self.config.score.psnr_peak), **dict(zip(distance_names(len(D)), D))}
        found = {"prediction": predicted, "psnr": signals["psnr"], "regular_score": regular_score(predicted, target)}
        if D:
            found["distance"] = torch.stack(D, dim=1)

        # Bring the signals to the scale of normal frames, as `lgn_net.scores.calibration.calibrated` does.
        if self.calibration:
            scale = self.calibration["signals"]
            found["normality"] = torch.stack([
                weight * (signals[name] - scale[name]["mean"]) / (scale[name]["std"] or 1.0)
                for name, weight in paper_weights(self.config.score.psnr_weight, len(D)).items()]).sum(dim=0)
        return found


def main(argv: list[str]) -> None:
    """Export a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="of scripts/export_weights.py; any other gives no normality")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    args = parser.parse_args(argv)
    check_writable(args.out.parent)
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"the export needs {error.name}: pip install onnx onnxscript onnxruntime") from None

    # The network, as it is at inference.
    config, content = load_checkpoint(args.checkpoint)
    config = with_knobs(config, {"score.kernels": "direct", "score.precision": "float32"})
    model: Any = build_model(config)
    load_weights(model, content["model"], args.checkpoint)
    calibration, size = content.get("calibration"), config.data.image_size
    scorer = Scorer(for_inference(model, config), config, calibration).eval()
    noise = 2 * torch.rand(3, config.model.window, config.data.channels, size, size) - 1

    # Export it, with windows of noise for an example, and compare the signals of these.
    with torch.inference_mode():
        expected = {name: x.numpy() for name, x in scorer(noise).items()}
    with warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(scorer, (noise,), dynamo=True, verbose=False, input_names=["window"],
                                    output_names=list(expected), dynamic_shapes={"window": {0: "batch"}})
    facts = {"window": config.model.window, "channels": config.data.channels, "image_size": size}
    if calibration:
        facts["threshold"] = threshold_at(calibration, 0.01)
    program.model.metadata_props.update({name: str(value) for name, value in facts.items()})
    code = program.model_proto.SerializeToString()
    found = onnxruntime.InferenceSession(code).run(list(expected), {"window": noise.numpy()})
    differences = {name: float((abs(x - y) / np.maximum(1, abs(x))).max())
                   for (name, x), y in zip(expected.items(), found)}
    if max(differences.values()) > TOLERANCE:
        raise UserError(f"ONNX Runtime does not agree with PyTorch: {differences}; try other versions of the two")
    with replacing(args.out) as file:
        file.write(code)
    print(f"{args.out}: {len(code) / 1e6:.2f} MB; {', '.join(f'{name} {value}' for name, value in facts.items())}\n"
          f"greatest differences to PyTorch: {', '.join(f'{name} {x:.1e}' for name, x in differences.items())}")


if __name__ == "__main__":
    run_command(main)
