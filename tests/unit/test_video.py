"""Frames into a video file, whatever is installed."""

import re
import subprocess
import sys

import numpy as np
import pytest

from protorl.cli.video import write_video
from protorl.data import ProtoRLError


def frames(n=6, height=33, width=47):
    for i in range(n):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[:, : 6 * (i + 1)] = (250, 40, 10)
        yield frame


@pytest.fixture(params=[".mp4", ".gif"])
def suffix(request, monkeypatch):
    if request.param == ".mp4":
        pytest.importorskip("imageio_ffmpeg")
    else:
        monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    return request.param


def read(path):
    if path.suffix == ".mp4":
        import imageio_ffmpeg

        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        done = subprocess.run(command, capture_output=True, check=True)
        width, height, fps = re.search(r"Video: h264.*, (\d+)x(\d+).*, (\d+) fps", done.stderr.decode()).groups()
        return list(np.frombuffer(done.stdout, np.uint8).reshape(-1, int(height), int(width), 3)), int(fps)
    from PIL import Image, ImageSequence

    with Image.open(path) as image:
        shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
        return shown, 1000 / image.info["duration"]


def test_what_is_written_can_be_seen(tmp_path, suffix):
    path = write_video(tmp_path / "videos" / "ALE.Pong-v5", frames(), fps=20)
    assert path == tmp_path / "videos" / f"ALE.Pong-v5{suffix}"
    seen, fps = read(path)
    assert len(seen) == 6
    assert fps == 20
    for frame, original in zip(seen, frames()):
        assert np.abs(frame[:33, :47].astype(int) - original).mean() < 12
    assert list(path.parent.iterdir()) == [path]


def test_even_sizes_keep_theirs(tmp_path, suffix):
    seen, _ = read(write_video(tmp_path / "v", frames(3, 84, 160), fps=30))
    assert {frame.shape for frame in seen} == {(84, 160, 3)}


def test_no_frames_is_one_sentence(tmp_path, suffix):
    with pytest.raises(ProtoRLError, match=r"no frames to write to .*v: was"):
        write_video(tmp_path / "v", iter([]), fps=30)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((8, 8, 3), np.uint8)])
def test_a_strange_frame_is_one_sentence_and_leaves_no_file(tmp_path, suffix, bad):
    with pytest.raises(ProtoRLError, match=r"a video frame is \[.*must be \[16, 16, 3\] uint8"):
        write_video(tmp_path / "v", [np.zeros((16, 16, 3), np.uint8), bad], fps=30)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_video_keeps_the_one_before(tmp_path, suffix):
    path = write_video(tmp_path / "v", frames(), fps=30)
    before = path.read_bytes()

    def breaks():
        yield from frames(3)
        raise RuntimeError("the environment broke")

    with pytest.raises(RuntimeError, match="the environment broke"):
        write_video(tmp_path / "v", breaks(), fps=30)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_one_may_not_write_is_one_sentence(tmp_path, suffix):
    (tmp_path / "file").write_text("")
    with pytest.raises(ProtoRLError, match="cannot write the video"):
        write_video(tmp_path / "file" / "v", frames(), fps=30)


def test_a_fast_gif_is_as_fast_as_players_allow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert read(write_video(tmp_path / "v", frames(), fps=120))[1] == 50
