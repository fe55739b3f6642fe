"""Videos: the frames that are seen at a rate, one per second if no other is asked for.

At time k/fps the frame is seen that began last. Frames are called by the second at which they begin, so that a name
means one frame at every rate. What is there is told by the packets, without decoding; a frame is decoded when it is
asked for, going on from the last one unless a key frame lies in between. Needs PyAV (``pip install av``).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from PIL import Image

from diffeat.errors import ImageError
from diffeat.features.places.readers import Readers
from diffeat.features.places.where import File, Inside, Member, Place, Wanted, Where, reason
from diffeat.geometry import open_image

#: Frames per second, if none are asked for.
FPS = 1.0
#: Containers that are read: no playlists, which would open other files.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg,mxf,ivf,m4v"
_TURNED = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


class VideoReader:
    """The first video track of a file."""

    def __init__(self, file: File) -> None:
        try:
            import av
        except ImportError:
            raise ImageError(f"{file}: videos need PyAV: pip install av") from None
        self._errors = av.FFmpegError
        self._stream = file.stream()
        try:
            self.container = av.open(
                self._stream, "r", options={"format_whitelist": _FORMATS, "protocol_whitelist": "none"}
            )
        except (self._errors, OSError, ValueError) as error:
            self._stream.close()
            raise ImageError(f"{file}: is no video, or one that is cut short ({reason(error)}).") from error
        if not self.container.streams.video:
            self.close()
            raise ImageError(f"{file}: holds no video track.")
        self.track = self.container.streams.video[0]
        self._frames: Iterator[Any] = iter(())
        self._last: int | None = None

    def close(self) -> None:
        self.container.close()
        self._stream.close()

    def packets(self) -> Iterator[tuple[int, bool, int]]:
        """Time (in the track's units), whether it is a key frame, and duration of every frame, as they are stored."""
        try:
            for packet in self.container.demux(self.track):
                time = packet.pts if packet.pts is not None else packet.dts
                if packet.size and time is not None and not packet.is_corrupt and not packet.is_discard:
                    yield time, packet.is_keyframe, packet.duration or 0
        except (self._errors, OSError):
            return  # it ends here

    def promised(self) -> float | None:
        """Seconds that its head says it has."""
        if self.track.duration is not None and self.track.time_base is not None:
            return float(self.track.duration * self.track.time_base)
        if clock := self.track.metadata.get("DURATION"):
            hours, minutes, seconds = clock.split(":")
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        whole = self.container.duration
        return whole / 1e6 if whole is not None and len(self.container.streams) == 1 else None

    def frame(self, time: int, key: int) -> Image.Image:
        """The frame of a time, for which the key frame of the time ``key`` is needed."""
        try:
            if self._last is None or not key <= self._last < time:
                self._last = None
                self.container.seek(key, stream=self.track, backward=True)
                self._frames = self.container.decode(self.track)
            for frame in self._frames:
                self._last = frame.pts if frame.pts is not None else frame.dts
                if self._last is not None and self._last >= time:
                    break
            else:
                raise ImageError("the video ends before it")
            if self._last != time:
                raise ImageError("it is damaged")
            image = frame.to_image()
        except (self._errors, OSError, ValueError) as error:
            raise ImageError(f"it cannot be decoded: {reason(error)}") from error
        return image.transpose(_TURNED[turn]) if (turn := frame.rotation % 360) in _TURNED else image


_VIDEOS = Readers(VideoReader)


@dataclass(frozen=True)
class VideoFrame(Inside):
    """A frame of a video: its time in the units of the track, and that of the key frame that it needs."""

    time: int
    key: int

    @property
    def in_order(self) -> bool:
        return True

    def fetch(self) -> Where:
        return Decoded(self._image())

    def open(self) -> tuple[Image.Image, str | None]:
        return self._image(), None

    def _image(self) -> Image.Image:
        try:
            with _VIDEOS.of(self.file, self.mark) as video:
                return open_image(video.frame(self.time, self.key))
        except ImageError as error:
            raise ImageError(f"{self}: {error}") from error

    def stamp(self) -> str | None:
        return self.mark and f"{self.mark}-{self.time}"


@dataclass(frozen=True)
class Decoded(Where):
    """A picture in memory."""

    image: Image.Image

    def open(self) -> tuple[Image.Image, str | None]:
        return self.image, None

    @property
    def bytes_held(self) -> int:
        return 3 * self.image.width * self.image.height


class Video(Place):
    """A video."""

    what = "video"
    endings = (
        ".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".3gp", ".m2ts",
    )  # fmt: skip
    options = ("fps",)

    @classmethod
    def pictures(cls, file: File, wanted: Wanted) -> Iterator[Member]:
        fps = FPS if wanted.fps is None else wanted.fps
        mark, video = file.stamp(), VideoReader(file)
        promised, unit = video.promised(), Fraction(video.track.time_base or 1)
        packets = list(video.packets())
        video.close()
        if not packets:
            raise ImageError(f"{file}: holds no frames.")
        times = sorted(time for time, _, _ in packets)
        keys = sorted(time for time, key, _ in packets if key) or times[:1]
        end = float((times[-1] + max(packets)[2] - times[0]) * unit)
        step, shown = 1 / Fraction(fps).limit_denominator(10**6), None
        for k in range(int(Fraction(end) / step) + 1):
            last = bisect_right(times, times[0] + k * step / unit) - 1
            if (time := times[last]) == shown or (k and k * step >= Fraction(end)):
                continue
            shown = time
            name = f"{float((time - times[0]) * unit):010.3f}"
            yield name, VideoFrame(file, mark, name, time, keys[max(bisect_right(keys, time) - 1, 0)]), None
        frame = max((b - a for a, b in pairwise(times)), default=0) * unit
        if promised is not None and end < promised - max(float(2 * frame), 0.05):
            raise ImageError(f"{file}: ends at {end:.2f} s, although its head says {promised:.2f} s.")
