"""Draw the toy data set: a walkway seen by a static camera, small enough to train and score on a laptop CPU.

    python scripts/make_toy_data.py --out DATA

In the training videos everybody walks, and to the right. In each testing video also come a cyclist (three times as fast
as a walker), a cart (large, over twice as fast) or a runner (twice as fast, to the left). A testing frame is labelled 1
exactly when at least a third of the area of such an intruder is inside the frame; its area is that of the box around it
(swinging limbs left out), and pedestrians in front of it do not count. Same arguments, same bytes.

    DATA/toy/training/frames/01/000.jpg ...      DATA/toy/frame_labels_toy.npy   uint8, all testing frames in order
    DATA/toy/testing/frames/01/000.jpg ...       DATA/toy/settings.json          what it was drawn with
"""

import argparse
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import cv2
import numpy as np

from lgn_net.errors import UserError
from lgn_net.files import replacing_folder, to_json
from lgn_net.terminal import progress, run_command

SUPERSAMPLING = 3                    # drawn this much larger, then averaged: a tenth of a pixel of motion is visible
SPLITS = ("training", "testing")
CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 25)), np.sin(np.linspace(0, 2 * np.pi, 25))], 1)
VISIBLE = 1 / 3                      # share of an intruder inside the frame that makes the frame abnormal
SLOT = 100                           # frames; every slot of a testing video follows one entry of SCHEDULE
SCHEDULE = (("cyclist",), ("cart",), ("runner",), ("cyclist", "runner"), ("cart", "cyclist"), ("runner", "cart"))
WALK = 0.07                          # body heights per frame: a brisk walk at 12 frames per second
SPEED = {"walker": WALK, "cyclist": 3 * WALK, "cart": 2.3 * WALK, "runner": -2 * WALK}        # negative: to the left
LENGTH = {"walker": 0.4, "cyclist": 1.1, "cart": 2.1, "runner": 0.5}      # body heights, without swinging arms and legs

# Colours are BGR, as OpenCV wants them.
GRASS, HEDGE, WALL, PAVEMENT, JOINT = (52, 88, 78), (38, 58, 48), (78, 86, 92), (158, 166, 168), (130, 136, 138)
SHADOW, BLACK, GLASS, WOOD, RED = (122, 128, 130), (38, 36, 36), (84, 78, 70), (58, 84, 112), (58, 52, 150)
CREAM, WHITE = (188, 196, 202), (226, 230, 232)
SHIRTS = ((52, 44, 40), (96, 62, 44), (58, 52, 118), (70, 88, 60), (84, 80, 78), (46, 84, 120), (206, 210, 214))
TROUSERS = ((44, 40, 38), (88, 62, 48), (66, 76, 88))
SKINS = ((140, 168, 206), (96, 124, 168), (62, 84, 120), (120, 150, 190))


@dataclass(frozen=True)
class Settings:
    """What the data set is drawn with; each is a flag."""

    seed: int = 0
    training_videos: int = 8
    testing_videos: int = 6
    frames: int = 100                # per video
    width: int = 160
    height: int = 120


@dataclass(frozen=True)
class Actor:
    """Somebody who crosses the scene at constant speed. Lengths in pixels, time in frames."""

    kind: str
    start: float                     # x of the centre at frame 0
    ground: float                    # y of the feet or wheels
    size: float                      # body height of a person at this distance from the camera
    speed: float                     # negative: to the left
    look: int                        # picks clothes, skin, backpack and the phase of the gait

    def x(self, frame: int) -> float:
        """Return where the centre is."""
        return self.start + self.speed * frame

    def clothes(self) -> list[tuple]:
        """Choose the colours of shirt, trousers and skin."""
        return [colours[self.look % len(colours)] for colours in (SHIRTS, TROUSERS, SKINS)]

    def visible_share(self, frame: int, width: int) -> float:
        """Return the share of the actor's box inside the frame; nobody leaves it at the top or bottom."""
        half = LENGTH[self.kind] * self.size / 2
        left, right = self.x(frame) - half, self.x(frame) + half
        return max(0.0, min(right, width) - max(left, 0.0)) / (right - left)


def perspective(nearness: float, height: int) -> tuple[float, float]:
    """Place something between the far (0) and the near (1) edge of the walkway: y of the ground, and body height."""
    return height * (0.44 + 0.45 * nearness), height * (0.15 + 0.13 * nearness)


def walkers(rng: np.random.Generator, s: Settings) -> Iterator[Actor]:
    """Fill six lanes with pedestrians; one speed per lane, so that nobody walks through anybody."""
    for lane in range(6):
        ground, size = perspective((lane + rng.uniform(0.1, 0.9)) / 6, s.height)
        speed = SPEED["walker"] * size * rng.uniform(0.8, 1.2)
        x = s.width + size * rng.uniform(-4, 2)
        while x > -speed * s.frames - size:                        # whoever starts further left never arrives
            yield Actor("walker", x, ground, size, speed, int(rng.integers(1000)))
            x -= size * (0.8 + rng.exponential(3.2))               # uneven crowds: more people is not abnormal


def intruders(rng: np.random.Generator, s: Settings, video: int) -> Iterator[Actor]:
    """Let those of the SCHEDULE cross one testing video."""
    for slot in range(0, s.frames, SLOT):
        for i, kind in enumerate(SCHEDULE[(video + slot // SLOT) % len(SCHEDULE)]):
            ground, size = perspective(rng.uniform(0.4, 0.6) + 0.25 * i, s.height)
            speed = SPEED[kind] * size * rng.uniform(0.95, 1.05)
            entry = slot + min(SLOT, s.frames - slot) * (rng.uniform(0.2, 0.3) + 0.15 * i)     # unseen until then
            outside = LENGTH[kind] * size / 2
            edge = -outside if speed > 0 else s.width + outside
            yield Actor(kind, edge - speed * entry, ground, size, speed, int(rng.integers(1000)))


def cast(s: Settings, split: str, video: int) -> list[Actor]:
    """List everybody in one video (counted from 0), the farthest first: the order in which they are drawn."""
    rng = np.random.default_rng([s.seed, SPLITS.index(split), video])
    actors = [*walkers(rng, s), *(intruders(rng, s, video) if split == "testing" else ())]
    return sorted(actors, key=lambda actor: actor.ground)


def frame_labels(s: Settings, video: int) -> np.ndarray:
    """Label the frames of one testing video, uint8 (frames,). UserError when all of them are normal."""
    abnormal = [actor for actor in cast(s, "testing", video) if actor.kind != "walker"]
    labels = [any(actor.visible_share(t, s.width) >= VISIBLE for actor in abnormal) for t in range(s.frames)]
    if not any(labels):                                            # frame 0 is always normal, see `entry`
        raise UserError(f"nothing abnormal would be seen in testing video {video + 1}: {s.frames} frames of width "
                        f"{s.width} are too few or too narrow; give larger numbers")
    return np.array(labels, np.uint8)


Point = tuple[float, float] | np.ndarray


class Pen:
    """Draws in units of `size` around (x, ground); the first axis points forwards, the second upwards."""

    def __init__(self, canvas: np.ndarray, x: float, ground: float, size: float, heading: int = 1):
        self.canvas, self.size = canvas, size
        self.origin = np.array([x, ground]) * SUPERSAMPLING * 16                   # 4 fractional bits: shift=4 below
        self.unit = np.array([heading * size, -size]) * SUPERSAMPLING * 16

    def pixels(self, points: np.ndarray | tuple) -> list[np.ndarray]:
        """Convert points to fractions of a pixel."""
        return [np.rint(np.asarray(points) * self.unit + self.origin).astype(np.int32)]

    def line(self, colour: Sequence[float], width: float, *points: Point) -> None:
        """Draw a line through points."""
        thickness = max(1, round(width * self.size * SUPERSAMPLING))
        cv2.polylines(self.canvas, self.pixels(points), False, colour, thickness, cv2.LINE_AA, shift=4)

    def fill(self, colour: Sequence[float], *points: Point) -> None:
        """Fill a polygon."""
        cv2.fillPoly(self.canvas, self.pixels(points), colour, cv2.LINE_AA, shift=4)

    def oval(self, colour: Sequence[float], centre: Point, rx: float, ry: float) -> None:
        """Fill an ellipse."""
        self.fill(colour, *(centre + (rx, ry) * CIRCLE))

    def wheel(self, centre: Point, radius: float) -> None:
        """Draw a black circle."""
        self.line(BLACK, 0.05, *(centre + radius * CIRCLE))


def shade(colour: Sequence[float], light: float) -> list[float]:
    """Darken a colour (light < 1) or brighten it."""
    return np.multiply(colour, light).tolist()


def limb(first: float, second: float, length: float) -> np.ndarray:
    """Return the joints (3, 2) of two equal bones from the origin. Angle 0 hangs down, positive points forwards."""
    bones = np.array([[0, 0], [np.sin(first), -np.cos(first)], [np.sin(second), -np.cos(second)]])
    return length * bones.cumsum(0)


def draw_person(pen: Pen, actor: Actor, travelled: float) -> None:
    """Draw a walker or runner. Legs follow the distance travelled (in body heights), so that feet do not slide."""
    shirt, trousers, skin = actor.clothes()
    stride, swing, lean, elbow = (1.3, 0.75, 0.13, 1.5) if actor.kind == "runner" else (0.85, 0.45, 0.02, 0.3)
    phases = actor.look + 2 * np.pi * travelled / stride + np.array([np.pi, 0])          # the far leg, the near leg
    thighs, bends = swing * np.sin(phases), 0.8 * swing * (1 + np.cos(phases))     # knees bend on the way forwards
    legs = [limb(thigh, thigh - bend, 0.25) for thigh, bend in zip(thighs, bends, strict=True)]
    hip = np.array([0, 0.02 - min(leg[2, 1] for leg in legs)])                     # the lower foot is on the ground
    shoulder = hip + (lean, 0.29)
    head = shoulder + (0.03 + lean / 3, 0.15)
    pen.oval(SHADOW, (0.05, 0), 0.24, 0.04)
    for light, leg, thigh in zip((0.75, 1.0), legs, thighs, strict=True):
        pen.line(shade(trousers, light), 0.10, *(hip + leg))
        pen.line(BLACK, 0.06, hip + leg[2], hip + leg[2] + (0.07, 0.01))
        if light == 1:                                                             # the body hides the far limbs
            if actor.look % 5 < 2:
                pen.line(RED, 0.13, hip + (lean - 0.11, 0.14), shoulder - (0.11, 0.04))    # a backpack
            pen.line(shirt, 0.18, hip + (0, 0.03), shoulder)
        arm = shoulder + limb(-thigh, elbow - thigh, 0.165)
        pen.line(shade(skin, light), 0.06, *arm[1:])
        pen.line(shade(shirt, light), 0.07, *arm[:2])
    pen.oval(skin, head, 0.065, 0.08)
    pen.oval(BLACK, head + (-0.02, 0.035), 0.065, 0.06)


def draw_cyclist(pen: Pen, actor: Actor, travelled: float) -> None:
    """Draw somebody on a bicycle; the pedals follow the distance travelled."""
    shirt, trousers, skin = actor.clothes()
    front, back, crank, saddle, bars = np.array([(0.33, 0.2), (-0.33, 0.2), (-0.02, 0.22), (-0.13, 0.5), (0.22, 0.56)])
    pen.oval(SHADOW, (0, 0), 0.55, 0.04)
    pen.wheel(front, 0.2)
    pen.wheel(back, 0.2)
    pen.line(RED, 0.04, saddle, back, crank, saddle, bars, crank)
    pen.line(RED, 0.04, bars, front)
    for light, turn in (0.75, np.pi), (1.0, 0.0):                                  # the far leg, the near leg
        pedal = crank + 0.09 * np.array([np.cos(turn - 2.5 * travelled), np.sin(turn - 2.5 * travelled)])
        pen.line(shade(trousers, light), 0.09, saddle, (saddle + pedal) / 2 + (0.14, 0.05), pedal)
    pen.line(shirt, 0.18, saddle + (0, 0.05), (0.07, 0.81))
    pen.line(skin, 0.06, (0.07, 0.81), (0.17, 0.66), bars)
    pen.oval(skin, (0.16, 0.94), 0.065, 0.08)
    pen.oval(CREAM, (0.15, 0.985), 0.09, 0.055)                                    # the helmet


def draw_cart(pen: Pen, actor: Actor, travelled: float) -> None:
    """Draw a small utility vehicle with its driver."""
    shirt, _, skin = actor.clothes()
    pen.oval(SHADOW, (0, 0), 1.05, 0.06)
    pen.fill(WOOD, (-0.95, 0.5), (-0.95, 0.8), (-0.5, 0.8), (-0.5, 0.5))           # a crate on the bed
    pen.fill(WHITE, (-1.05, 0.2), (-1.05, 0.6), (-0.25, 0.6), (-0.2, 1.15), (0.45, 1.15), (0.7, 0.66), (1, 0.56),
             (1.05, 0.2))
    pen.fill(GLASS, (-0.12, 0.66), (-0.12, 1.05), (0.12, 1.05), (0.12, 0.66))        # windows
    pen.fill(GLASS, (0.2, 0.66), (0.2, 1.05), (0.42, 1.05), (0.59, 0.66))
    pen.oval(skin, (0.3, 0.9), 0.07, 0.09)
    pen.line(shirt, 0.14, (0.29, 0.71), (0.30, 0.78))
    pen.fill(CREAM, (-1.05, 0.2), (-1.05, 0.48), (1.03, 0.34), (1.05, 0.2))
    for axle in np.array([(-0.65, 0.19), (0.65, 0.19)]):
        pen.oval(CREAM, axle, 0.17, 0.17)
        pen.wheel(axle, 0.17)


DRAW = {"walker": draw_person, "runner": draw_person, "cyclist": draw_cyclist, "cart": draw_cart}


def background(s: Settings) -> np.ndarray:
    """Draw the empty scene, (SUPERSAMPLING * height, SUPERSAMPLING * width, 3) uint8, the same in all videos."""
    rng = np.random.default_rng([s.seed, len(SPLITS)])
    canvas = np.full((s.height * SUPERSAMPLING, s.width * SUPERSAMPLING, 3), GRASS, np.uint8)
    pen, w = Pen(canvas, 0, s.height, s.height), s.width / s.height                # unit: the height of the frame
    pen.fill(WALL, (0.4 * w, 0.88), (0.4 * w, 1.1), (w, 1.1), (w, 0.88))
    pen.fill(PAVEMENT, (0.06 * w, 0.58), (0.2 * w, 1), (0.27 * w, 1), (0.17 * w, 0.58))
    pen.fill(PAVEMENT, (0, 0.07), (0, 0.6), (w, 0.6), (w, 0.07))
    for x in np.linspace(-1.2, 1.2, 12) * w:                                       # joints meet where size would be 0
        pen.line(JOINT, 0.004, (w / 2 + x, 0.07), (w / 2 + x * 0.483, 0.6))
    for y in (0.07, 0.16, 0.3, 0.41, 0.49, 0.55, 0.6):
        pen.line(JOINT, 0.013 if y in (0.07, 0.6) else 0.004, (0, y), (w, y))       # kerbs are thicker
    for _ in range(90):
        leaves = w * rng.uniform(0.28, 1), rng.uniform(0.83, 0.9)
        pen.oval(shade(HEDGE, rng.uniform(0.75, 1.3)), leaves, *rng.uniform(0.02, 0.045, 2))
    rough = np.where(canvas[:, :, :1] < 120, 5.0, 2.0)                             # grass is rougher than pavement
    for grain in (2, 8, 32):                                                       # from blades to patches
        noise = rng.standard_normal((canvas.shape[0] // grain + 2, canvas.shape[1] // grain + 2), np.float32)
        noise = np.asarray(cv2.resize(noise, canvas.shape[1::-1], interpolation=cv2.INTER_CUBIC))
        canvas[:] = np.clip(canvas + rough * noise[:, :, None], 0, 255)
    for x in (0.23 * w, 0.8 * w):                                                  # lamp posts
        pen.line(BLACK, 0.014, (x, 0.605), (x, 0.97))
        pen.line(BLACK, 0.03, (x - 0.02, 0.97), (x + 0.03, 0.97))
    for y in (0.67, 0.71):                                                         # a bench
        pen.line(BLACK, 0.01, (0.52 * w, 0.62), (0.52 * w, y), (0.52 * w + 0.16, y), (0.52 * w + 0.16, 0.62))
        pen.line(WOOD, 0.018, (0.52 * w - 0.01, y), (0.52 * w + 0.17, y))
    return canvas


def draw_video(s: Settings, split: str, video: int, scene: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the frames (height, width, 3) uint8 of one video."""
    actors = cast(s, split, video)
    rng = np.random.default_rng([s.seed, SPLITS.index(split), video, 1])
    clouds = rng.uniform(0, 2 * np.pi)
    for t in range(s.frames):
        canvas = scene.copy()
        for actor in actors:
            if -2 * actor.size < actor.x(t) < s.width + 2 * actor.size:
                pen = Pen(canvas, actor.x(t), actor.ground, actor.size, 1 if actor.speed > 0 else -1)
                DRAW[actor.kind](pen, actor, travelled=abs(actor.speed) * t / actor.size)
        frame = cv2.resize(canvas, (s.width, s.height), interpolation=cv2.INTER_AREA)
        light = 1 + 0.01 * np.sin(clouds + t / 9) + 0.002 * rng.standard_normal()  # slow clouds, quick flicker
        noise = 2 * rng.standard_normal((s.height, s.width, 1), np.float32)        # of the sensor
        yield np.clip(np.round(frame * light + noise), 0, 255).astype(np.uint8)


def write_dataset(s: Settings, root: Path) -> None:
    """Draw all videos and their labels into a folder."""
    labels = np.concatenate([frame_labels(s, video) for video in range(s.testing_videos)])
    scene = background(s)
    digits = max(3, len(str(s.frames - 1)))                                        # names sort as text in any case
    videos = [("training", v) for v in range(s.training_videos)] + [("testing", v) for v in range(s.testing_videos)]
    with progress("draw", len(videos), "videos") as bar:
        for split, video in videos:
            folder = root / split / "frames" / f"{video + 1:02d}"
            folder.mkdir(parents=True)
            for t, frame in enumerate(draw_video(s, split, video, scene)):
                jpeg = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
                (folder / f"{t:0{digits}d}.jpg").write_bytes(jpeg.tobytes())
            bar.update()
    np.save(root / "frame_labels_toy.npy", labels)
    (root / "settings.json").write_text(to_json(asdict(s)))


def make_toy_data(s: Settings, out: Path) -> bool:
    """Write `out`/toy as a whole or not at all. False: it is there already. UserError: with other settings."""
    for name, value in asdict(s).items():
        if value < (name != "seed"):
            raise UserError(f"--{name} {value}: give {'0 or more' if name == 'seed' else '1 or more'}")
    root = out / "toy"
    if root.exists():
        settings = root / "settings.json"
        if settings.exists() and settings.read_text() == to_json(asdict(s)):
            return False
        raise UserError(f"{root} exists and was made with other settings; give another --out, or delete it first")
    with replacing_folder(root) as unfinished:
        write_dataset(s, unfinished)
    return True


def main(argv: list[str]) -> None:
    """Draw the data set and print how to train on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="dataset folder; toy/ is made in it")
    for field in fields(Settings):
        parser.add_argument(f"--{field.name}", type=int, default=field.default, help=f"default: {field.default}")
    args = vars(parser.parse_args(argv))
    out = args.pop("out")
    s = Settings(**args)
    drawn = make_toy_data(s, out)
    share = np.mean([frame_labels(s, video) for video in range(s.testing_videos)])
    print(f"{out / 'toy'} {'is complete' if drawn else 'was made with these settings before, nothing to do'}.\n"
          f"training: {s.training_videos} videos, {s.training_videos * s.frames} frames, all normal\n"
          f"testing:  {s.testing_videos} videos, {s.testing_videos * s.frames} frames, {share:.1%} abnormal\n"
          f"Train on it: python train.py --config configs/toy.yaml --dataset_path {shlex.quote(str(out))} "
          "--exp_dir runs/toy")


if __name__ == "__main__":
    run_command(main)
