"""What readers of the pages have at hand: pictures of their own, captions, films, tables, a pipeline's folder."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from pathlib import Path

import av
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

import diffeat
from diffeat.datasets.samples import write_samples
from diffeat.extraction import Recipe

PICTURES = (
    "a.png", "b.png", "cat.png", "cat.jpg", "dog.jpg", "other-cat.png", "new.jpg", "street/one.jpg", "street/two.jpg",
    "horse_21/real/train/one.jpg",
    *(f"pictures/{animal}/{number}.jpg" for animal in ("cat", "dog") for number in range(6)),
)  # fmt: skip


def lay_down(folder: Path, page: str) -> None:
    """Everything that some page takes for granted, but what the page's own commands write."""
    if not re.search(r"^diffeat samples photos|&& \S*diffeat samples photos", page, re.M):
        write_samples(folder / "photos")
        _drawn(0).save(folder / "photos" / "cat.png")
    for number, name in enumerate(PICTURES):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        _drawn(number).save(file)
    whiskers, mask = Image.new("RGBA", (640, 480)), Image.new("L", (64, 64))
    ImageDraw.Draw(whiskers).line((200, 200, 400, 260), (255, 255, 255, 255), 6)
    whiskers.save(folder / "whiskers.png")
    ImageDraw.Draw(mask).rectangle((20, 20, 40, 40), 1)
    mask.save(folder / "first.png")
    names = sorted(path.name for path in (folder / "photos").glob("*"))
    captions = {name: f"a photo of {name}" for name in names}
    (folder / "captions.csv").write_text("image,prompt\n" + "".join(f"{n},{text}\n" for n, text in captions.items()))
    (folder / "spair_detailed_captions.json").write_text(json.dumps(captions), encoding="utf-8")
    for name in ("film.mp4", "clip.mp4"):
        _film(folder / name)
    _tars_and_table(folder)
    shutil.copytree(Path(diffeat.__file__).parent / "zoo" / "tiny_unet", folder / "my-pipeline")
    if "--out mine.yaml" not in page:
        (folder / "mine.yaml").write_text(Recipe.load("tiny-unet").to_yaml(), encoding="utf-8")


def _drawn(number: int) -> Image.Image:
    grey = Image.radial_gradient("L").resize((640, 480)).rotate(10 * number)
    return Image.merge("RGB", [grey, grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT), grey.rotate(90)])


def _film(file: Path) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(4):
            container.mux(stream.encode(av.VideoFrame.from_image(_drawn(number).resize((64, 64)))))
        container.mux(stream.encode())


def _tars_and_table(folder: Path) -> None:
    rows = []
    (folder / "shards").mkdir()
    for number in range(2):
        buffer = io.BytesIO()
        _drawn(number).save(buffer, "JPEG")
        rows.append({"image": buffer.getvalue(), "caption": "a gradient"})
        with tarfile.open(folder / "shards" / f"{number:03}.tar", "w") as tar:
            for ending, data in (("jpg", buffer.getvalue()), ("txt", b"a gradient")):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
