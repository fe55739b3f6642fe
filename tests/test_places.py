"""Where pictures lie: every kind of place gives the same pictures as a folder does, in any process."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from diffeat.errors import ImageError, InvalidValueError
from diffeat.features import Picture, list_pictures
from diffeat.features.picture import several
from diffeat.features.places.archives import Tar, Zip
from diffeat.features.places.look import PLACES
from diffeat.features.places.tables import Rows, Table
from diffeat.features.places.videos import Video
from diffeat.features.places.where import Place, Wanted
from diffeat.geometry import FrameSpec


def drawn(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (6 + seed, 8, 3), np.uint8))


# --- pictures that go to another process ---------------------------------------------------------


def test_a_pickled_picture_is_small_and_opens_again(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    drawn(1).resize((300, 200)).save(file)
    picture = Picture.of(file, "a cat", name="a.png")
    picture.apart = 3
    picture.levels(FrameSpec(size=64).frame(picture.image.size))
    held = picture.bytes_held
    picture.noise = {"a draw": torch.zeros(4, 64, 64)}
    assert picture.bytes_held == held  # or windows of a stream would depend on what threads got done
    picture.key  # noqa: B018 (opens it)
    data = pickle.dumps(picture)
    assert len(data) < 1000
    again = pickle.loads(data)
    assert (again.name, again.text, again.apart, again.digest) == ("a.png", "a cat", 3, picture.digest)
    assert np.array_equal(np.asarray(again.image), np.asarray(picture.image))
    array = Picture.of(np.asarray(drawn(2)))
    assert pickle.loads(pickle.dumps(array)).key == array.key


def test_a_file_is_read_once_to_be_opened_and_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    drawn(1).save(file)
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    assert Picture.of(file).digest == expected
    picture = Picture.of(file)
    picture.image  # noqa: B018
    file.unlink()
    assert picture.digest == expected
    with pytest.raises(ImageError, match=r"a\.png: no such file"):
        Picture.of(file).image  # noqa: B018


def test_a_stamp_tells_a_file_that_changed_without_reading_it(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    drawn(1).save(file)
    before = Picture.of(file).stamp
    assert before == Picture.of(file).stamp
    os.utime(file, ns=(1, 1))
    assert before != Picture.of(file).stamp is not None
    assert Picture("own", lambda: drawn(1)).stamp is None is Picture.of(tmp_path / "no.png").stamp


# --- every kind of place -------------------------------------------------------------------------


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    drawn(seed).save(buffer, "PNG")
    return buffer.getvalue()


def tar(file: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(file, mode) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


SAMPLES = {f"{n}.{ending}": data for n in range(3) for ending, data in (
    ("json", json.dumps({"caption": f"json {n}", "id": n}).encode()), ("png", png(n)), ("txt", f"text {n}\n".encode()),
)}  # fmt: skip


def a_tar(folder: Path) -> Path:
    return tar(folder / "a.tar", SAMPLES)


def a_tar_gz(folder: Path) -> Path:
    return tar(folder / "a.tar.gz", SAMPLES, "w:gz")


def a_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for name, data in SAMPLES.items():
            archive.writestr(name, data)
    return folder / "a.zip"


def columns(**more: Any) -> pa.Table:
    pictures = [{"bytes": png(n), "path": f"{n}.png"} for n in range(3)]
    texts = {"label": [0, 1, 2], "txt": [f"text {n}" for n in range(3)], "name": [f"{n}.png" for n in range(3)]}
    return pa.table({"image": pictures, **texts, **more})


def a_parquet(folder: Path) -> Path:
    pq.write_table(columns(), folder / "a.parquet", row_group_size=2)
    return folder / "a.parquet"


def an_arrow_file(folder: Path) -> Path:
    with pa.ipc.new_file(folder / "a.arrow", columns().schema) as writer:
        writer.write_table(columns(), max_chunksize=2)
    return folder / "a.arrow"


def an_arrow_stream(folder: Path) -> Path:
    with pa.ipc.new_stream(folder / "b.arrow", columns().schema) as writer:
        writer.write_table(columns(), max_chunksize=2)
    return folder / "b.arrow"


def files(folder: Path) -> Path:
    for name, data in SAMPLES.items():
        (folder / name).write_bytes(data)
    return folder


def a_csv(folder: Path) -> Path:
    rows = "".join(f"{n}.png,text {n},{n}.png\n" for n in range(3))
    (files(folder) / "a.csv").write_text(f"file_name,txt,name\n{rows}")
    return folder / "a.csv"


def a_tsv(folder: Path) -> Path:
    rows = "".join(f"{n}.png\ttext {n}\t{n}.png\n" for n in range(3))
    (files(folder) / "a.tsv").write_text(f"file_name\ttxt\tname\n{rows}")
    return folder / "a.tsv"


def a_jsonl(folder: Path) -> Path:
    rows = [json.dumps({"image": f"{n}.png", "txt": f"text {n}", "name": f"{n}.png"}) for n in range(3)]
    (files(folder) / "a.jsonl").write_text("\n".join(rows))
    return folder / "a.jsonl"


def a_list(folder: Path) -> Path:
    (files(folder) / "a.lst").write_text("# three\n0.png\n\n1.png\n" + str(folder / "2.png"))
    return folder / "a.lst"


def a_video(folder: Path) -> Path:
    return video(folder / "a.mkv", [drawn(n).resize((16, 16), 0) for n in range(3)])


def video(file: Path, frames: list[Image.Image], rate: int = 1, codec: str = "ffv1", **options: Any) -> Path:
    with av.open(str(file), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return file


MAKERS: dict[Callable[[Path], Path], type[Place] | None] = {
    files: None, a_list: None, a_tar: Tar, a_tar_gz: Tar, a_zip: Zip, a_parquet: Table, an_arrow_file: Table,
    an_arrow_stream: Table, a_csv: Rows, a_tsv: Rows, a_jsonl: Rows, a_video: Video,
}  # fmt: skip


def test_every_registered_place_is_tried_here() -> None:
    assert {place for place in MAKERS.values() if place} == set(PLACES)
    endings = [ending for place in PLACES for ending in place.endings]
    assert len(endings) == len(set(endings))
    assert {option for place in PLACES for option in place.options} == {f.name for f in fields(Wanted)}


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_every_place_gives_its_pictures_anywhere(make: Callable[[Path], Path], tmp_path: Path) -> None:
    given = make(tmp_path)
    kind = MAKERS[make]
    takes = kind.options if kind else ("caption_column",)
    wanted = {name: value for name, value in (("caption_column", "txt"), ("name_column", "name")) if name in takes}
    if make is a_list:
        wanted = {"caption_column": "txt"}
    pictures = list(list_pictures(given, **wanted))
    where = f"{given.name}/" if kind and kind.inside else ""
    names = [f"00000{n}.000" if kind is Video else f"{n}.png" for n in range(3)]
    assert [p.name for p in pictures] == [where + name for name in names]
    assert [p.text for p in pictures] == ([None] * 3 if kind is Video else [f"text {n}" for n in range(3)])
    expected = [drawn(n).resize((16, 16), 0) if kind is Video else drawn(n) for n in range(3)]
    others = pickle.loads(pickle.dumps(pictures))
    for n in (2, 0, 1):  # in any order
        assert np.array_equal(np.asarray(others[n].image), np.asarray(expected[n]))
        pictures[n].fetch()
        assert np.array_equal(np.asarray(pictures[n].image), np.asarray(expected[n]))
        assert pictures[n].digest == others[n].digest
        assert pictures[n].digest == (others[n].key if kind is Video else hashlib.sha256(png(n)).hexdigest())
    assert len({p.stamp for p in pictures} - {None}) == 3 or make in (files, a_list, a_csv, a_tsv, a_jsonl)
    assert [np.asarray(Picture.of(i).image).shape for i in several(given)] == [np.asarray(e).shape for e in expected]


@pytest.mark.parametrize("make", [a_tar, a_zip, a_parquet, a_csv, a_list, a_video], ids=lambda make: make.__name__)
def test_every_place_is_read_by_its_url(make: Callable[[Path], Path], tmp_path: Path) -> None:
    import fsspec

    given = make(tmp_path)
    system = fsspec.filesystem("memory")
    for file in tmp_path.iterdir():
        system.pipe(f"/pictures/{file.name}", file.read_bytes())
    if make is a_list:
        system.pipe("/pictures/a.lst", b"0.png\nmemory://pictures/1.png\n2.png")
    try:
        here, there = list_pictures(given), list_pictures(f"memory://pictures/{given.name}")
        assert [p.name for p in there] == [p.name for p in here]
        assert [p.key for p in there] == [p.key for p in here]
        if make is a_csv:
            assert [p.name for p in list_pictures("memory://pictures")] == [p.name for p in list_pictures(tmp_path)]
    finally:
        system.rm("/pictures", recursive=True)


# --- what is bad costs nothing else --------------------------------------------------------------


def outcome(*paths: Path | str, **options: Any) -> tuple[list[str], list[str]]:
    """Names of the pictures that open, and what the others say."""
    good, bad = list[str](), list[str]()
    for picture in list_pictures(paths, **options):
        try:
            picture.fetch()
            picture.image  # noqa: B018
            good.append(picture.name)
        except ImageError as error:
            bad.append(str(error))
    assert all(message.isprintable() for message in bad)
    return good, bad


def test_a_tar_cut_short(tmp_path: Path) -> None:
    whole = a_tar(tmp_path).read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        at = archive.getmember("1.png").offset_data
        last = archive.getmember("2.txt")
        end = last.offset_data + 512
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[: at + 20])
    good, bad = outcome(cut, tmp_path / "a.tar")
    assert good == ["cut.tar/0.png", "a.tar/0.png", "a.tar/1.png", "a.tar/2.png"]
    assert len(bad) == 2
    assert "cut.tar/1.png: the tar is cut short, 20 of the picture's" in bad[0]
    assert "cut.tar: cannot be read as a tar after 1.png (unexpected end of data)" in bad[1]
    cut.write_bytes(whole[:end])  # between members
    good, bad = outcome(cut)
    assert (len(good), len(bad)) == (3, 1)
    assert "is cut short, or lacks its end mark after 2.txt" in bad[0]
    cut.write_bytes(whole[:end] + b"\x01" * 2000)
    assert "is damaged after 2.txt" in outcome(cut)[1][0]
    packed = a_tar_gz(tmp_path).read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(packed[: len(packed) // 2])
    good, bad = outcome(tmp_path / "b.tar.gz", tmp_path / "a.tar.gz")
    assert good[-3:] == ["a.tar.gz/0.png", "a.tar.gz/1.png", "a.tar.gz/2.png"]
    assert "b.tar.gz" in bad[-1]


def test_members_of_one_name_and_links(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, seed in (("./x/a.png", 1), ("x/a.png", 2), ("../../b.png", 3), ("x/._a.png", 4), ("x/.hid/a.png", 5)):
            info = tarfile.TarInfo(name)
            info.size = len(png(seed))
            archive.addfile(info, io.BytesIO(png(seed)))
        for name, target, kind in (
            ("h.png", "x/a.png", tarfile.LNKTYPE),
            ("x/s.png", "../b.png", tarfile.SYMTYPE),
            ("gone.png", "/etc/no", tarfile.SYMTYPE),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    good, bad = outcome(tmp_path / "a.tar")
    assert good == ["a.tar/x/a.png", "a.tar/b.png", "a.tar/h.png", "a.tar/x/s.png"]
    assert bad == [
        f"{tmp_path}/a.tar: x/a.png stands there 2 times; the first is read. Rename this one.",
        f"{tmp_path}/a.tar/gone.png: is a link to what is not in the tar.",
    ]


def test_a_list_names_what_is_not_there_or_itself(tmp_path: Path) -> None:
    files(tmp_path)
    (tmp_path / "a.txt").write_text("0.png\nno.png\n*.tif\n1.png\n0.png\nb.txt\nempty.lst\ns3x://b/1.png\n")
    (tmp_path / "b.txt").write_text("2.png\na.txt\n")
    (tmp_path / "empty.lst").write_text("\n")
    good, bad = outcome(tmp_path / "a.txt")
    assert good == ["0.png", "1.png", "2.png"]
    assert [message.removeprefix(f"{tmp_path}/a.txt, line ") for message in bad] == [
        f"2: The picture '{tmp_path}/no.png' does not exist.",
        f"3: No file is found by the pattern '{tmp_path}/*.tif'.",
        f"6: {tmp_path}/b.txt, line 2: the list names itself.",
        f"7: {tmp_path}/empty.lst: the list is empty.",
        "8: s3x://b/1.png: no file system is called 's3x'. Did you mean 's3' or 's3a'?",
    ]
    (tmp_path / "c.csv").write_text('image\n0.png\nno.png\n""\n')
    good, bad = outcome(tmp_path / "c.csv")
    assert good == ["0.png"]
    assert [message.removeprefix(f"{tmp_path}/c.csv, line ")[:20] for message in bad] == [
        "3: The picture '/tmp",
        "4: there is no path ",
    ]


def test_tables_without_pictures(tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": [1], "text": ["x"]}), tmp_path / "no.parquet")
    pq.write_table(pa.table({"left": [png(0)], "right": [png(1)]}), tmp_path / "two.parquet")
    pq.write_table(pa.table({"image": [png(0), None, b"no picture"]}), tmp_path / "bad.parquet")
    (tmp_path / "cut.parquet").write_bytes(a_parquet(tmp_path).read_bytes()[:-50])
    good, bad = outcome(*(tmp_path / f"{name}.parquet" for name in ("no", "two", "bad", "cut", "a")))
    assert good == [f"{name}.parquet/00000{n}" for name, n in (("bad", 0), ("a", 0), ("a", 1), ("a", 2))]
    for message, said in zip(bad, (
        "no.parquet: has no column of pictures; it has label, text. Name the one to take: --column.",
        "two.parquet: may have its pictures in left or right. Name the one to take: --column.",
        "bad.parquet/000001: there is no picture in this row.",
        "bad.parquet/000002: not a picture",
        "cut.parquet: is no table, or one that is cut short",
    ), strict=True):  # fmt: skip
        assert message.startswith(f"{tmp_path}/{said}")
    assert outcome(tmp_path / "two.parquet", column="right")[0] == ["two.parquet/000000"]
    with pytest.raises(InvalidValueError, match=r"no column 'imag' \(--column\); it has image, .*Did you mean 'image'"):
        list_pictures(tmp_path / "a.parquet", column="imag")
    with pytest.raises(InvalidValueError, match=r"column 'label' holds int64, no picture files"):
        list_pictures(tmp_path / "a.parquet", column="label")


def test_a_video_that_ends_early_and_one_that_is_none(tmp_path: Path) -> None:
    frames = [drawn(n).resize((64, 64), 0) for n in range(12)]
    whole = video(tmp_path / "a.mp4", frames, 4, "mpeg4", movflags="faststart")
    data = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 3 // 4])
    (tmp_path / "head.mp4").write_bytes(data[:300])
    (tmp_path / "no.mp4").write_bytes(b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n")
    good, bad = outcome(*(tmp_path / f"{name}.mp4" for name in ("cut", "head", "no", "a")), fps=4)
    assert [name for name in good if name.startswith("a.")] == [f"a.mp4/{n / 4:010.3f}" for n in range(12)]
    cut = [name for name in good if name.startswith("cut.")]
    assert cut == [f"cut.mp4/{n / 4:010.3f}" for n in range(len(cut))]
    assert 2 < len(cut) < 12
    assert "cut.mp4: ends at" in bad[0]
    assert "although its head says 3.00 s" in bad[0]
    assert [message.split(":")[0] for message in bad[1:]] == [str(tmp_path / "head.mp4"), str(tmp_path / "no.mp4")]


def test_frames_at_a_rate(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (32, 32), (20 * n, 20 * n, 20 * n)) for n in range(12)]
    file = video(tmp_path / "a.mp4", frames, 4, "libx264", movflags="faststart")
    assert [p.name for p in list_pictures(file)] == [f"a.mp4/{n:06d}.000" for n in range(3)]
    assert [p.name[-5:] for p in list_pictures(file, fps=2)] == ["0.000", "0.500", "1.000", "1.500", "2.000", "2.500"]
    assert [p.name[-5:] for p in list_pictures(file, fps=3)] == [
        f"{t:.3f}" for t in (0, 0.25, 0.5, 1, 1.25, 1.5, 2, 2.25, 2.5)
    ]
    every = list_pictures(file, fps=1000)
    assert len(every) == 12
    for n in (7, 8, 3, 0, 11):  # forward, and back over a key frame
        assert abs(np.asarray(every[n].image).astype(int).mean() - 20 * n) < 4
    for fps in (0, -1, float("nan")):
        with pytest.raises(InvalidValueError, match="Frames per second must be above 0"):
            list_pictures(file, fps=fps)


def test_what_would_be_ignored_is_refused(tmp_path: Path) -> None:
    files(tmp_path)
    for option, said in (
        ({"fps": 2}, "--fps would be ignored: no video is among"),
        ({"column": "x"}, r"--column would be ignored: no list with columns .* or table"),
        ({"name_column": "x"}, "--name-column would be ignored"),
    ):  # fmt: skip
        with pytest.raises(InvalidValueError, match=said):
            list_pictures(tmp_path, **option)
    (tmp_path / "p.csv").write_text("image,prompt\n")
    with pytest.raises(InvalidValueError, match="--prompts or from --caption-column"):
        list_pictures(tmp_path, prompts=tmp_path / "p.csv", caption_column="txt")


def test_texts_beside_pictures(tmp_path: Path) -> None:
    files(tmp_path)
    assert [p.text for p in list_pictures(tmp_path, caption_column="caption")] == [f"json {n}" for n in range(3)]
    (tmp_path / "1.txt").unlink()
    (tmp_path / "2.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(
        InvalidValueError, match=r"'txt' has no text for 1 of 3 pictures, the first is '1\.png'.*--prompt"
    ):
        list_pictures(tmp_path, caption_column="txt")
    good, bad = outcome(tmp_path, caption_column="txt", default="else")
    assert good == ["0.png", "1.png"]
    assert "2.png: the text beside it cannot be read" in bad[0]


def test_a_file_that_changed_since_it_was_listed(tmp_path: Path) -> None:
    for make in (a_tar, a_zip, a_parquet, a_video):
        picture = list_pictures(make(tmp_path))[0]
        os.utime(make(tmp_path), ns=(1, 1))
        with pytest.raises(ImageError, match="has changed since its pictures were listed"):
            picture.image  # noqa: B018


def test_globs_braces_and_folders_that_hold_such_files(tmp_path: Path) -> None:
    for name in ("s/08.tar", "s/09.tar", "s/10.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        tar(tmp_path / name, {"a.png": png(0)})
    names = ["08.tar/a.png", "09.tar/a.png", "10.tar/a.png"]
    assert [p.name for p in list_pictures(tmp_path / "s" / "*.tar")] == names
    assert [p.name for p in list_pictures(f"{tmp_path}/s/{{08..09}}.tar")] == names[:2]
    assert [p.name for p in list_pictures(f"{tmp_path}/*/*.tar")] == [f"s/{name}" for name in names]
    assert [p.name for p in list_pictures(tmp_path / "s" / "08.tar", root=tmp_path)] == ["s/08.tar/a.png"]
    with pytest.raises(
        InvalidValueError, match=r"08\.tar: not a picture by its name .*; a tar .* is read where it is given"
    ):
        list_pictures(tmp_path / "s")


def test_urls_of_files_in_zips_and_of_this_machine(tmp_path: Path) -> None:
    given = a_zip(tmp_path)
    assert [p.name for p in list_pictures(f"zip://::{given}")] == ["0.png", "1.png", "2.png"]
    assert [p.name for p in list_pictures(f"zip://*.png::file://{given}")] == ["0.png", "1.png", "2.png"]
    one = Picture.of(f"zip://1.png::{given}")
    assert one.digest == hashlib.sha256(png(1)).hexdigest()
    assert np.array_equal(np.asarray(one.image), np.asarray(drawn(1)))
    files(tmp_path)
    assert [p.name for p in list_pictures(f"file://{tmp_path}")] == ["0.png", "1.png", "2.png"]
    assert outcome("memory://no/1.png", tmp_path / "0.png") == (["0.png"], ["memory://no/1.png: no such file."])


# --- S3 ------------------------------------------------------------------------------------------


def test_s3_by_a_server_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs = pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"), ("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x"),
            ("AWS_DEFAULT_REGION", "us-east-1"), ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none")), ("AWS_CONFIG_FILE", str(tmp_path / "none")),
        ):  # fmt: skip
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        system = s3fs.S3FileSystem()
        system.mkdir("bucket")
        for n in range(2):
            system.pipe(f"bucket/photos/{n}.png", png(n))
        system.pipe("bucket/a.tar", a_tar(tmp_path).read_bytes())
        system.pipe("bucket/all.lst", b"photos\ns3://bucket/no.png\na.tar\n")
        listing = list_pictures("s3://bucket/all.lst")
        assert [p.name for p in listing] == [
            "photos/0.png",
            "photos/1.png",
            "no.png",
            *(f"a.tar/{n}.png" for n in range(3)),
        ]
        good, bad = outcome("s3://bucket/all.lst")
        assert (len(good), bad) == (5, ["s3://bucket/no.png: no such file."])
        assert listing[0].digest == hashlib.sha256(png(0)).hexdigest()
        assert pickle.loads(pickle.dumps(listing[3])).key == listing[3].key
        assert listing[0].stamp is not None
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(InvalidValueError, match=r"s3://bucket/photos: there are no credentials for it"):
            list_pictures("s3://bucket/photos")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()
