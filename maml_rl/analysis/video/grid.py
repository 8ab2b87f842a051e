"""A grid of episodes with captions, written as a video."""

from __future__ import annotations

import functools
import io
import itertools
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from maml_rl.analysis.video.files import playable_fps, write_gif, write_mp4

_BACKGROUND, _TEXT, _ENDED = (24, 28, 36), (235, 238, 242), (250, 190, 90)
_GAP = 4  # pixels between panels
_FONT_SIZES = (10, 20)
_SMALLEST_FONT = 7
_TASK_LINES = 2
_SMALL_GIF_FPS = 10.0


class Frame(NamedTuple):
    """A frame of an episode, compressed since the frames of a large grid would fill the memory."""

    packed: bytes
    shape: tuple[int, ...]
    total: float
    """Sum of the rewards so far."""
    caption: str = ""
    """A line that the environment writes beside the frame."""

    @classmethod
    def of(cls, pixels: np.ndarray, total: float, caption: str = "") -> Frame:
        """Compress ``pixels`` (height, width, 3) uint8."""
        packed = zlib.compress(np.ascontiguousarray(pixels).tobytes(), 1)
        return cls(packed=packed, shape=pixels.shape, total=total, caption=caption)

    def pixels(self) -> np.ndarray:
        """Return the frame, (height, width, 3) uint8."""
        return np.frombuffer(zlib.decompress(self.packed), np.uint8).reshape(self.shape)


@dataclass(frozen=True)
class Clip:
    """One episode.

    Args:
        frames: frames by control step, including the first and the last.
        ended: whether the episode ended before the horizon.
    """

    frames: dict[int, Frame]
    ended: bool

    @property
    def last(self) -> int:
        """The last control step."""
        return max(self.frames)


def steps_shown(num_steps: int, dt: float, fps: float) -> list[int]:
    """Return the control step that each frame of a video in real time shows.

    Args:
        num_steps: number of control steps.
        dt: seconds per control step.
        fps: frames per second. Above 1 / dt, steps are repeated. Below, steps are skipped, but
            never the first and the last.
    """
    # Round first: floating-point products may miss an integer.
    num_frames = math.ceil(round(num_steps * dt * fps, 6)) + 1
    return [min(num_steps, math.floor(round(j / (fps * dt), 6))) for j in range(num_frames)]


@dataclass(frozen=True)
class Grid:
    """Tasks as rows, adaptation steps as columns.

    Args:
        title: title of the video.
        tasks: for each row, the task's values in words.
        labels: label of each column.
        clips: clips[row][column].
        dt: seconds per control step.
    """

    title: str
    tasks: Sequence[Sequence[str]]
    labels: Sequence[str]
    clips: Sequence[Sequence[Clip]]
    dt: float

    def images(self, fps: float, panel_width: int | None = None) -> Iterator[np.ndarray]:
        """Yield frames of the grid in real time, (height, width, 3) uint8 with even sides.

        Args:
            fps: frames per second.
            panel_width: width of a panel in pixels; default is that of the clips.
        """
        height, width = self.clips[0][0].frames[0].shape[:2]
        scale = 1.0 if panel_width is None else panel_width / width
        layout = _Layout(self, round(width * scale), round(height * scale))
        last = max(clip.last for row in self.clips for clip in row)
        for step in steps_shown(last, self.dt, fps):
            yield layout.image(step)

    def save(self, file: Path, fps: float | None = None) -> None:
        """Write a video; its suffix chooses the format.

        Raises:
            OSError: if it cannot be written.
        """
        file_format = file.suffix[1:].lower()
        rate = playable_fps(fps, self.dt, file_format)
        if file_format == "gif":
            with file.open("wb") as stream:
                write_gif(stream, self.images(rate), rate)
            return
        write_mp4(file, self.images(rate), rate)

    def small_gif(self, panel_width: int = 240, max_frames: int = 50) -> tuple[bytes, int, int]:
        """Return a small animated GIF: its bytes, height and width.

        Args:
            panel_width: maximum width of a panel in pixels.
            max_frames: maximum number of frames.
        """
        duration = max(clip.last for row in self.clips for clip in row) * self.dt
        fps = min(_SMALL_GIF_FPS, (max_frames - 1) / max(duration, self.dt))
        rate = 100 / math.ceil(100 / fps)  # a GIF measures time in hundredths of a second
        images = list(self.images(rate, min(panel_width, self.clips[0][0].frames[0].shape[1])))
        stream = io.BytesIO()
        write_gif(stream, iter(images), rate)
        return stream.getvalue(), *images[0].shape[:2]


class _Layout:
    """Sizes and positions, which are the same in all frames."""

    def __init__(self, grid: Grid, width: int, height: int) -> None:
        self.grid = grid
        self.width = width
        self.height = height
        # Text.
        low, high = _FONT_SIZES
        self.font = _font(min(high, max(low, width // 25)))
        self.line = round(1.4 * self.font.size)
        self.pad = self.line // 3
        self.tasks = [_task_lines(parts, self.font, width - 2 * self.pad) for parts in grid.tasks]
        longest = max((f"{label}   {_return(-1234.5)}, ended" for label in grid.labels), key=len)
        self.return_below = self.font.getlength(longest) > width - 2 * self.pad
        # Heights of the header and of a panel's caption.
        self.header = self.line + 2 * self.pad
        clips = itertools.chain.from_iterable(grid.clips)
        has_captions = any(frame.caption for clip in clips for frame in clip.frames.values())
        num_lines = 1 + self.return_below + max(map(len, self.tasks)) + has_captions
        self.strip = num_lines * self.line + 2 * self.pad

    def image(self, step: int) -> np.ndarray:
        """Draw the grid at a control step, (height, width, 3) uint8."""
        # Background; codecs need even sides.
        rows, columns = len(self.grid.clips), len(self.grid.labels)
        width = columns * (self.width + _GAP) - _GAP
        height = self.header + rows * (self.strip + self.height + _GAP) - _GAP
        image = Image.new("RGB", (width + width % 2, height + height % 2), _BACKGROUND)
        draw = ImageDraw.Draw(image)
        # Header.
        time = f"t = {step * self.grid.dt:.2f} s"
        time_width = self.font.getlength(time)
        self._write(draw, time, (width - self.pad, self.pad), time_width + 1, anchor="ra")
        room = width - 3 * self.pad - time_width
        self._write(draw, self.grid.title, (self.pad, self.pad), room)
        # Panels.
        for row, column in itertools.product(range(rows), range(columns)):
            corner = (
                column * (self.width + _GAP),
                self.header + row * (self.strip + self.height + _GAP),
            )
            self._panel(image, draw, corner, step, row, column)
        return np.asarray(image)

    def _panel(
        self,
        image: Image.Image,
        draw: ImageDraw.ImageDraw,
        corner: tuple[int, int],
        step: int,
        row: int,
        column: int,
    ) -> None:
        """Draw one panel with its caption; ``corner`` is its top left."""
        # Frame; darker after the end of its episode.
        clip = self.grid.clips[row][column]
        frame = clip.frames[max(s for s in clip.frames if s <= step)]
        over = clip.ended and step >= clip.last
        panel = Image.fromarray(frame.pixels())
        if panel.size != (self.width, self.height):
            panel = panel.resize((self.width, self.height), Image.Resampling.LANCZOS)
        if over and step > clip.last:
            panel = Image.blend(panel, Image.new("RGB", panel.size, _BACKGROUND), 0.4)
        x, y = corner
        image.paste(panel, (x, y + self.strip))
        # Label.
        left = x + self.pad
        right = x + self.width - self.pad
        room = self.width - 2 * self.pad
        y += self.pad
        self._write(draw, self.grid.labels[column], (left, y), room)
        # Return.
        y += self.line * self.return_below
        text = f"{_return(frame.total)}, ended" if over else _return(frame.total)
        colour = _ENDED if over else _TEXT
        position, anchor = ((left, y), "la") if self.return_below else ((right, y), "ra")
        self._write(draw, text, position, room, anchor, colour)
        # Task, and what the environment says of the frame.
        for line in [*self.tasks[row], *([frame.caption] if frame.caption else [])]:
            y += self.line
            self._write(draw, line, (left, y), room)

    def _write(
        self,
        draw: ImageDraw.ImageDraw,
        text: str,
        position: tuple[int, int],
        room: float,
        anchor: str = "la",
        colour: tuple[int, int, int] = _TEXT,
    ) -> None:
        """Write one line; reduce its font size to fit ``room``, then cut it."""
        size = self.font.size
        while _font(size).getlength(text) > room and size > _SMALLEST_FONT:
            size -= 1
        while _font(size).getlength(text) > room and len(text) > 1:
            text = text[:-2] + "…"
        draw.text(position, text, font=_font(size), fill=colour, anchor=anchor)


@functools.cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    """The font of figures; Pillow's own one lacks "×", "−" and "²"."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(path, size)


def _return(total: float) -> str:
    return f"return {total:.1f}" if abs(total) < 1e6 else f"return {total:.3g}"


def _task_lines(parts: Sequence[str], font: ImageFont.FreeTypeFont, room: float) -> list[str]:
    """Return the lines of a caption: as many values as fit, and the number of the others."""
    for num_parts in range(len(parts), 0, -1):
        # Separate the parts by commas.
        words = list(parts[:num_parts])
        if num_parts < len(parts):
            words.append(f"and {len(parts) - num_parts} more")
        words[:-1] = [f"{word}," for word in words[:-1]]
        # Break lines.
        lines = [words[0]]
        for word in words[1:]:
            longer = f"{lines[-1]} {word}"
            if font.getlength(longer) <= room:
                lines[-1] = longer
            else:
                lines.append(word)
        if len(lines) <= _TASK_LINES or num_parts == 1:
            return lines
    return []
