"""An episode to look at: a video, and stills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from thespis.core import Fault
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
    """One episode, of `longest` steps at most, with what wrappers had `gathered` and about the first of `contexts`, as
    FOLDER/NAME.png, stills of it, and FOLDER/NAME.mp4, a video, where imageio-ffmpeg is installed: the paths, by "stills" and
    "video". Fault: the environment or this machine cannot draw."""
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
    stills, write = Stills(), None
    try:
        obs, _ = env.reset(seed=seed, options=None if contexts is None else {"context": contexts[0]})
        step, total, over = 0, 0.0, False
        stills.add(frame := env.render(), step, total)
        write = _video(aside, frame, env.metadata.get("render_fps", 30))
        while not over and step < longest:
            action = act(torch.from_numpy(obs)[None], torch.zeros(1, dtype=torch.int64)).cpu().numpy()[0]
            obs, reward, terminated, truncated, _ = env.step(action)
            step, total, over = step + 1, total + float(np.sum(reward)), terminated or truncated
            stills.add(frame := env.render(), step, total)
            if write:
                write.send(np.ascontiguousarray(frame))
        if write:
            write.close()
            aside.replace(folder / f"{name}.mp4")
        stills.save(folder / f"{name}.png")
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
    aside = file.with_name(f".{file.name}.tmp")
    picture.save(aside, "png")
    return aside.replace(file)


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

    def chosen(self) -> list[tuple[np.ndarray, int, float]]:
        """The first, the last, and what lies between: at most STILLS."""
        n = len(self.kept)
        return self.kept if n <= STILLS else [self.kept[i] for i in np.linspace(0, n - 1, STILLS).round().astype(int)]

    def save(self, file: Path) -> None:
        """Those chosen, with their steps and returns, as one PNG; written whole or not at all."""
        from PIL import Image, ImageDraw, ImageFont

        chosen, shape, font = self.chosen(), self.kept[0][0].shape, ImageFont.load_default(18)
        height = round(WIDTH * shape[0] / shape[1])
        sheet = Image.new("RGB", (min(len(chosen), 4) * WIDTH, -(-len(chosen) // 4) * (height + 30)), "white")
        draw = ImageDraw.Draw(sheet)
        for i, (frame, step, total) in enumerate(chosen):
            x, y = i % 4 * WIDTH, i // 4 * (height + 30)
            sheet.paste(Image.fromarray(frame).resize((WIDTH, height)), (x, y))
            draw.text((x + 8, y + height + 3), f"step {step:,}, return {total:,.0f}", "black", font)
        _write(sheet, file)
