"""Draw the toy data set: a walkway seen by a static camera, small enough to train and score on a laptop CPU.

    python scripts/make_toy_data.py --out DATA

In the training videos everybody walks, and to the right. In each testing video also come a cyclist (three times as fast
as a walker), a cart (large, over twice as fast) or a runner (twice as fast, to the left). A testing frame is labelled 1
exactly when at least a third of the box around such an intruder is inside the frame. The bytes are always the same.
"""

from pathlib import Path

from lgn_net.cli import Parser, show_help

PARSER = Parser(__doc__)
PARSER.add_argument("--out", type=Path, required=True, help="dataset folder; toy/ is made in it")
show_help(__name__, PARSER)     # before slow imports

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from lgn_net.files import replacing_folder
from lgn_net.terminal import progress, run_command

VIDEOS = {"training": 8, "testing": 6}
FRAMES, WIDTH, HEIGHT = 100, 160, 120
SCALE = 3                            # drawn this much larger, then averaged: a tenth of a pixel of motion is visible
INTRUDERS = (("cyclist",), ("cart",), ("runner",), ("cyclist", "runner"), ("cart", "cyclist"), ("runner", "cart"))
WALK = 0.07                          # body heights per frame: a brisk walk at 12 frames per second
SPEED = {"cyclist": 3 * WALK, "cart": 2.3 * WALK, "runner": -2 * WALK}    # negative: to the left
LENGTH = {"cyclist": 1.1, "cart": 2.1, "runner": 0.5}                     # body heights, without swinging legs
GAIT = {"walker": (0.4, 7.4, 0.02), "runner": (0.75, 4.8, 0.13), "cyclist": (0.45, 2.5, 0.2)}   # swing, pace, lean

# Colours are BGR, as OpenCV wants them.
GRASS, PAVEMENT, BLACK, WHITE = (52, 88, 78), (158, 166, 168), (38, 36, 36), (226, 230, 232)
SHIRTS = ((52, 44, 40), (96, 62, 44), (58, 52, 118), (70, 88, 60), (84, 80, 78), (46, 84, 120), (206, 210, 214))
TROUSERS, SKINS = ((44, 40, 38), (88, 62, 48), (66, 76, 88)), ((140, 168, 206), (96, 124, 168), (62, 84, 120))


class Actor(NamedTuple):
    """Somebody who crosses the scene at constant speed. Lengths in pixels, time in frames."""

    kind: str
    size: float                      # body height of a person at this distance from the camera
    start: float                     # x of the centre at frame 0
    speed: float                     # negative: to the left
    look: int                        # picks clothes, skin and the phase of the gait


def cast(split: str, video: int) -> list[Actor]:
    """List everybody in one video (counted from 0), the farthest first: the order in which they are drawn."""
    rng, actors = np.random.default_rng([0, split == "testing", video]), []
    # Pedestrians in six lanes; one speed per lane, so that nobody walks through anybody.
    for lane in range(6):
        size, x = HEIGHT * (0.15 + 0.13 * (lane + rng.uniform(0.1, 0.9)) / 6), WIDTH * rng.uniform(0.8, 1.1)
        speed = WALK * size * rng.uniform(0.8, 1.2)
        while x > -speed * FRAMES - size:                          # whoever starts further left never arrives
            actors.append(Actor("walker", size, x, speed, int(rng.integers(1000))))
            x -= size * (0.8 + rng.exponential(3.2))               # uneven crowds: more people is not abnormal
    # Intruders, unseen until their entry.
    for i, kind in enumerate(INTRUDERS[video] if split == "testing" else ()):
        size = HEIGHT * (rng.uniform(0.2, 0.23) + 0.03 * i)
        speed, outside = SPEED[kind] * size * rng.uniform(0.95, 1.05), LENGTH[kind] * size / 2
        entry = FRAMES * (rng.uniform(0.2, 0.3) + 0.15 * i)
        start = (-outside if speed > 0 else WIDTH + outside) - speed * entry
        actors.append(Actor(kind, size, start, speed, int(rng.integers(1000))))
    return sorted(actors, key=lambda actor: actor.size)


def frame_labels(video: int) -> np.ndarray:
    """Label the frames of one testing video, uint8 (frames,)."""
    labels = np.zeros(FRAMES, np.uint8)
    for actor in cast("testing", video):
        if actor.kind != "walker":
            length = LENGTH[actor.kind] * actor.size
            left = actor.start + actor.speed * np.arange(FRAMES) - length / 2
            labels |= np.minimum(left + length, WIDTH) - np.maximum(left, 0) >= length / 3
    return labels


def draw(canvas: np.ndarray, actor: Actor, t: int) -> None:
    """Draw an actor as thick lines; one from a point to itself is a disc. Lengths are in body heights."""
    # The ground below the actor: the walkway's perspective. Points are forwards and upwards from there.
    place = np.array([actor.start + actor.speed * t, 3.46 * actor.size - 0.08 * HEIGHT])

    def line(colour: tuple, width: float, *points: object) -> None:
        pixels = (place + np.array(points) * (np.sign(actor.speed) * actor.size, -actor.size)) * SCALE
        cv2.polylines(canvas, [np.rint(16 * pixels).astype(np.int32)], False, colour,                # 4 fractional bits
                      max(1, round(width * actor.size * SCALE)), cv2.LINE_AA, 4)

    shirt, trousers, skin = (colours[actor.look % len(colours)] for colours in (SHIRTS, TROUSERS, SKINS))
    for x in {"cart": (-0.65, 0.65), "cyclist": (-0.33, 0.33)}.get(actor.kind, ()):
        line(BLACK, 0.4, (x, 0.2), (x, 0.2))
    if actor.kind == "cart":
        line(WHITE, 0.4, (-0.85, 0.4), (0.85, 0.4))
        line(WHITE, 0.6, (-0.1, 0.85), (0.25, 0.85))
        line(skin, 0.16, (0.25, 0.88), (0.25, 0.88))
        return
    # Legs follow the distance travelled, so that feet do not slide.
    swing, pace, lean = GAIT[actor.kind]
    hip, angle = np.array([0, 0.48]), swing * np.sin(actor.look + pace * abs(actor.speed) * t / actor.size)
    for leg in (angle, -angle):
        line(trousers, 0.1, hip, hip + 0.46 * np.array([np.sin(leg), -np.cos(leg)]))
    line(shirt, 0.18, hip + (0, 0.05), hip + (lean, 0.28))
    line(skin, 0.15, *2 * [hip + (1.3 * lean, 0.44)])


def draw_video(split: str, video: int) -> Iterator[np.ndarray]:
    """Yield the frames (height, width, 3) uint8 of one video, with the light and the sensor noise of a camera."""
    # The empty scene, always the same: a walkway between meadows.
    H, W, rng = HEIGHT * SCALE, WIDTH * SCALE, np.random.default_rng([0, 2])
    scene = np.full((H, W, 3), GRASS, np.float32)
    scene[2 * H // 5:93 * H // 100] = PAVEMENT
    for grain in (2, 8, 32):                                                       # from blades of grass to patches
        noise = rng.standard_normal((H // grain + 2, W // grain + 2), np.float32)
        scene += 3 * cv2.resize(noise, (W, H), interpolation=cv2.INTER_CUBIC)[..., None]
    scene = scene.clip(0, 255).astype(np.uint8)

    actors, rng = cast(split, video), np.random.default_rng([0, split == "testing", video, 1])
    clouds = rng.uniform(0, 2 * np.pi)
    for t in range(FRAMES):
        canvas = scene.copy()
        for actor in actors:
            draw(canvas, actor, t)
        frame = cv2.resize(canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        light = 1 + 0.01 * np.sin(clouds + t / 9) + 0.002 * rng.standard_normal()  # slow clouds, quick flicker
        noise = 2 * rng.standard_normal((HEIGHT, WIDTH, 1), np.float32)
        yield np.clip(np.round(frame * light + noise), 0, 255).astype(np.uint8)


def main(argv: list[str]) -> None:
    """Draw the data set, as a whole or not at all, and print how to train on it."""
    root = PARSER.parse_args(argv).out / "toy"
    if not root.exists():
        with replacing_folder(root) as part, progress("draw", sum(VIDEOS.values()), "videos") as bar:
            for split, video in [(split, video) for split, count in VIDEOS.items() for video in range(count)]:
                folder = part / split / "frames" / f"{video + 1:02d}"
                folder.mkdir(parents=True)
                for t, frame in enumerate(draw_video(split, video)):
                    cv2.imwrite(str(folder / f"{t:03d}.jpg"), frame)
                bar.update()
            np.save(part / "frame_labels_toy.npy", np.concatenate([frame_labels(v) for v in range(VIDEOS["testing"])]))
    print(f"train on it: python train.py --config configs/toy.yaml --exp_dir runs/toy --dataset_path {root.parent}")


if __name__ == "__main__":
    run_command(main)
