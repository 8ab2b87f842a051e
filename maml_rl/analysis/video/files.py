"""Files of videos: formats, encoders, and temporary files."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from maml_rl.errors import UserError
from maml_rl.system.atomic_files import atomic_replace

FORMATS = ("mp4", "gif")
_MAX_DEFAULT_FPS = {"mp4": 60.0, "gif": 50.0}  # browsers slow down GIFs with more
_CRF = "23"
"""x264's constant rate factor: lower is sharper and larger; at 23 captions are sharp."""


def playable_fps(fps: float | None, dt: float, file_format: str) -> float:
    """Return the frames per second of a file; by default one per control step, up to a limit.

    A GIF measures time in hundredths of a second, so it gets the nearest possible rate.
    """
    if fps is None:
        fps = min(1 / dt, _MAX_DEFAULT_FPS[file_format])
    return 100 / max(2, round(100 / fps)) if file_format == "gif" else fps


def write_gif(stream: IO[bytes], images: Iterator[np.ndarray], fps: float) -> None:
    """Write an animated GIF that repeats without end.

    Args:
        stream: the open file.
        images: (height, width, 3) uint8 each.
        fps: frames per second, from :func:`playable_fps`.
    """
    frames = (Image.fromarray(image) for image in images)
    duration = round(1000 / fps)
    next(frames).save(stream, "GIF", save_all=True, append_images=frames, duration=duration, loop=0)


def write_mp4(file: Path, images: Iterator[np.ndarray], fps: float) -> None:
    """Write H.264 in 4:2:0, which every player supports, with the index first for browsers.

    The encoder runs in this process, since forking a large process may fail for lack of memory. It
    has one thread, since its output depends on the number of threads, and no macroblock tree, which
    makes it differ from call to call for sizes that are not multiples of 16.
    """
    import av  # slow, and needed for videos only

    rate = max(Fraction(fps).limit_denominator(10_000), Fraction(1, 10_000))
    try:
        with av.open(str(file), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            first = next(images)
            options = {"crf": _CRF, "x264-params": "mbtree=0"}
            stream = container.add_stream("libx264", rate=rate, options=options)
            stream.height, stream.width = first.shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.codec_context.thread_count = 1
            for image in itertools.chain([first], images):
                # Convert here: the encoder's own conversion differs from call to call.
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except av.FFmpegError as error:
        raise OSError(f"{file.name}: {error.strerror}") from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces ``path`` when the context ends.

    If that fails, neither a new file nor a new folder remains.

    Raises:
        UserError: if ``path`` does not name a video or cannot be written.
    """
    if path.suffix[1:].lower() not in FORMATS or os.path.isdir(path):
        raise UserError(
            f"video {path} must be a file that ends in "
            f"{' or '.join(f'.{name}' for name in FORMATS)}"
        )
    missing = [folder for folder in path.parents if not os.path.exists(folder)]
    # The process id is in the name, since two processes may record the same file.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix.lower()}")
    done = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent, path.stem)
        with atomic_replace(path, temporary):
            temporary.touch()
            yield temporary
        done = True
    except OSError as error:
        raise UserError(f"video {path} cannot be written: {error}") from error
    finally:
        if not done:
            with contextlib.suppress(OSError):  # delete what was created
                for folder in missing:
                    folder.rmdir()


def remove_unfinished(folder: Path, stem: str | None = None) -> None:
    """Delete the temporary files of recordings that were killed.

    Files of processes that run on this machine stay.

    Args:
        folder: folder of the videos.
        stem: file name of one video without suffix; default is all videos.
    """
    name_of_video = ".+" if stem is None else re.escape(stem)
    pattern = re.compile(rf"\.{name_of_video}\.(\d+)\.tmp\.({'|'.join(FORMATS)})")
    if not os.path.isdir(folder):
        return
    for name in os.listdir(folder):
        match = pattern.fullmatch(name)
        if match and not _is_running(int(match[1])):
            (folder / name).unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    """Whether another process with this id runs on this machine; on Windows always true."""
    if pid == os.getpid():
        return False
    if os.name == "nt":  # where os.kill would end it
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True
