"""An episode to look at: a video, and stills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from thespis.core import Fault
from thespis.engine import checkpoint
from thespis.engine.evaluate import Act
from thespis.envs import Figures, World
from thespis.envs.flat import Flat
from thespis.envs.spaces import translator
from thespis.envs.statistics import Statistics

STILLS = 8
SAMPLES = 200  # in the picture of a world that draws what came of many episodes
WIDTH = 300  # of a still, in a row of four


def record(
    world: World, act: Act, folder: Path, name: str, seed: int, longest: int, gathered: Statistics | None = None,
    contexts: np.ndarray | None = None,
) -> dict[str, str]:  # fmt: skip
    """One episode, of `longest` steps at most, with what wrappers had `gathered`, as FOLDER/NAME.png, stills of it, and
    FOLDER/NAME.mp4, a video, where imageio-ffmpeg is installed: the paths, by "stills" and "video". Of several `contexts` an
    episode each, STILLS of them at most: the stills are how these end. Fault: the environment or this machine cannot draw."""
    env: Any
    try:
        env = world.make(render_mode="rgb_array")
    except Fault:
        env = world.make()
        if env.env.has_wrapper_attr("draw"):
            return {"stills": str(_samples(env, act, folder / f"{name}.png", seed))}
        if not Figures.possible(env):
            env.close()
            raise
        env = Figures(env)
    flat: Any = env.env if isinstance(env, Figures) else env
    if gathered and flat.gathered().keys() == gathered.keys():
        flat.use(gathered, frozen=True)
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{name}.tmp.mp4"
    stills, ends, write = Stills(), [], None
    try:
        for i, context in enumerate(asked := _apart(contexts)):
            obs, _ = env.reset(seed=seed + i, options=None if context is None else {"context": context})
            step, total, over = 0, 0.0, False
            frame = env.render()
            stills.add(frame, step, total)
            write = write or _video(aside, frame, env.metadata.get("render_fps", 30))
            while not over and step < longest:
                action = act(torch.from_numpy(obs)[None], torch.zeros(1, dtype=torch.int64)).cpu().numpy()[0]
                obs, reward, terminated, truncated, _ = env.step(action)
                step, total, over = step + 1, total + float(np.sum(reward)), terminated or truncated
                frame = env.render()
                stills.add(frame, step, total)
                if write:
                    write.send(np.ascontiguousarray(frame))
            ends.append((frame, f"asked for {_written(context)}" if context is not None else ""))
        if write:
            write.close()
            aside.replace(folder / f"{name}.mp4")
        _sheet(ends if len(asked) > 1 else stills.chosen(), folder / f"{name}.png")
    finally:
        if write:
            write.close()
        aside.unlink(missing_ok=True)
        env.close()
    return {"stills": str(folder / f"{name}.png")} | ({"video": str(folder / f"{name}.mp4")} if write else {})


def _samples(env: Flat, act: Act, file: Path, seed: int) -> Path:
    """What `draw` of an environment makes of the first actions of SAMPLES episodes, (n, ...) each, in its own terms."""
    from PIL import Image

    try:
        seen = [env.reset(seed=seed + i)[0] for i in range(SAMPLES)]
        chosen = [act(torch.from_numpy(obs)[None], torch.zeros(1, dtype=torch.int64)).cpu().numpy()[0] for obs in seen]
        translate = translator(env.env.action_space)
        picture = env.env.get_wrapper_attr("draw")(np.stack(seen), np.stack([translate(a) for a in chosen]))
    finally:
        env.close()
    file.parent.mkdir(parents=True, exist_ok=True)
    return _write(Image.fromarray(picture), file)


def _write(picture: Any, file: Path) -> Path:
    """An image as PNG, whole or not at all."""
    checkpoint.write(file, lambda aside: picture.save(aside, "png"))
    return file


def _video(file: Path, first: np.ndarray, fps: float) -> Any:
    """A writer that is sent frames (height, width, 3), has the first, and ends when it is closed; None without imageio-ffmpeg."""
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    write = imageio_ffmpeg.write_frames(str(file), first.shape[1::-1], fps=fps, macro_block_size=2, ffmpeg_log_level="error")
    write.send(None)
    write.send(np.ascontiguousarray(first))
    return write


class Stills:
    """Frames of an episode of any length, evenly apart, few of which are held at a time."""

    def __init__(self) -> None:
        self.kept: list[tuple[np.ndarray, int, float]] = []
        self.stride, self.last = 1, False

    def add(self, frame: np.ndarray, step: int, total: float) -> None:
        """The frame after `step` steps, which brought `total`. The newest is always held, and before it every stride-th."""
        if self.kept and self.kept[-1][1] % self.stride:
            self.kept.pop()
        self.kept.append((frame, step, total))
        if len(self.kept) > 4 * STILLS:
            self.kept, self.stride = self.kept[::2], 2 * self.stride

    def chosen(self) -> list[tuple[np.ndarray, str]]:
        """The first, the last, and what lies between, at most STILLS, with their steps and returns."""
        n = len(self.kept)
        few = self.kept if n <= STILLS else [self.kept[i] for i in np.linspace(0, n - 1, STILLS).round().astype(int)]
        return [(frame, f"step {step:,}, return {total:,.0f}") for frame, step, total in few]


def _sheet(frames: list[tuple[np.ndarray, str]], file: Path) -> Path:
    """Frames with what is said under each, in rows of four."""
    from PIL import Image, ImageDraw, ImageFont

    shape, font = frames[0][0].shape, ImageFont.load_default(18)
    height = round(WIDTH * shape[0] / shape[1])
    sheet = Image.new("RGB", (min(len(frames), 4) * WIDTH, -(-len(frames) // 4) * (height + 30)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (frame, text) in enumerate(frames):
        x, y = i % 4 * WIDTH, i // 4 * (height + 30)
        sheet.paste(Image.fromarray(frame).resize((WIDTH, height)), (x, y))
        draw.text((x + 8, y + height + 3), text, "black", font)
    return _write(sheet, file)


def _apart(contexts: np.ndarray | None) -> list[np.ndarray | None]:
    """STILLS of the rows, evenly apart, none twice; [None] without."""
    if contexts is None:
        return [None]
    rows = list(dict.fromkeys(map(tuple, contexts.tolist())))
    picked = np.unique(np.linspace(0, len(rows) - 1, STILLS).round().astype(int))
    return [np.array(rows[i], contexts.dtype) for i in picked]


def _written(context: np.ndarray) -> str:
    """A 1 among zeros as its place."""
    if (context.sum(), context.max(), len(context) > 2) == (1, 1, True):
        return f"skill {int(context.argmax())}"
    return ", ".join(f"{x:.2f}" for x in context[:4]) + (", ..." if len(context) > 4 else "")
