"""Frames into a video file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from protorl.data import Array, ProtoRLError


def write_video(path: Path, frames: Iterable[Array], fps: float) -> Path:
    """Write frames as `path`.mp4 where imageio and ffmpeg are installed, else as `path`.gif; returns the file written.

    `path` has no suffix; `frames` are [H, W, 3] uint8, all of one size, taken one at a time; `fps` is frames per second
    (a GIF shows at most 50). An odd height or width gains one line: the video's colours come in blocks of two by two. The
    file appears when it is complete.

    Raises ProtoRLError when there are no frames, one has another shape or dtype, or the disk refuses.
    """
    checked = _checked(frames)
    try:
        first = next(checked)
    except StopIteration:
        raise ProtoRLError(f"no frames to write to {path}: was the environment made with render_mode='rgb_array'?") from None
    suffix, write = (".mp4", _write_mp4) if _has_ffmpeg() else (".gif", _write_gif)
    final, temporary = (path.with_name(f"{prefix}{path.name}{suffix}") for prefix in ("", ".tmp-"))
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        write(temporary, itertools.chain([first], checked), fps)
        os.replace(temporary, final)
    except OSError as error:
        raise ProtoRLError(f"cannot write the video {final}: {error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return final


def picture(image: Array) -> Array:
    """A rendered image [H, W, 3] as `write_video` takes it: colours in 0..1 become bytes, and small images (MinAtar renders
    10x10) grow to about 160 pixels."""
    pixels = image if image.dtype == np.uint8 else np.round(255 * image).astype(np.uint8)
    times = max(1, 160 // max(image.shape[:2]))
    return pixels.repeat(times, 0).repeat(times, 1)


def _checked(frames: Iterable[Array]) -> Iterator[Array]:
    shape: tuple[int, ...] | None = None
    for frame in frames:
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or shape not in (None, frame.shape):
            wanted = "[H, W, 3]" if shape is None else str(list(shape))
            raise ProtoRLError(f"a video frame is {list(frame.shape)} {frame.dtype}; it must be {wanted} uint8")
        shape = frame.shape
        yield frame


def _has_ffmpeg() -> bool:
    try:
        import imageio.v2  # noqa: F401 (asks only whether it is there)
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):  # RuntimeError: the package is there, its program is not
        return False
    return True


def _write_mp4(path: Path, frames: Iterable[Array], fps: float) -> None:
    import imageio.v2 as imageio

    writer = imageio.get_writer(path, fps=fps, codec="libx264", quality=8, macro_block_size=1)
    try:  # its own `with` leaves ffmpeg running after an error
        for frame in frames:
            height, width, _ = frame.shape
            writer.append_data(np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))
    finally:
        writer.close()


def _write_gif(path: Path, frames: Iterable[Array], fps: float) -> None:
    from PIL import Image

    images = (Image.fromarray(frame).quantize() for frame in frames)
    # A GIF counts hundredths of a second, and players slow down what is shorter than two of them.
    duration = max(2, round(100 / fps)) * 10
    next(images).save(path, save_all=True, append_images=images, duration=duration, loop=0)
