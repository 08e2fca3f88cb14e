"""Reading pictures: folders and arrays of them, in order, converted, and none that a single file can break."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image as Pictures

from pe.data.arrays import to_numpy
from pe.data.draft import draft
from pe.data.schema import Categorical, Image, Numeric, Schema
from pe.errors import PrivateDataError, SchemaError
from pe.privacy import Adjacency
from pe.private.dataset import PrivateDataset

PICTURE = Schema((Image("i", 2, 2),))
LABELLED = Schema((Image("i", 2, 2), Categorical("y", ("cat", "dog"))), "y")


def read(data: object, schema: Schema, adjacency: str = "add-remove") -> PrivateDataset:
    return PrivateDataset.read(data, schema, adjacency=Adjacency(adjacency))


def records(data: object, schema: Schema) -> dict[str, list[Any]]:
    return read(data, schema)._records.to_pydict()


def picture(path: Path, size: tuple[int, int] = (2, 2), mode: str = "L", value: Any = 200) -> None:
    path.parent.mkdir(exist_ok=True)
    Pictures.new(mode, size, value).save(path)


def pixels(data: PrivateDataset) -> np.ndarray:
    image = data.schema.image
    assert image is not None
    return to_numpy(data._records, image)


def test_a_folder_of_pictures_is_read_in_order_with_its_labels(tmp_path: Path) -> None:
    picture(tmp_path / "dog" / "b.png", value=20)
    picture(tmp_path / "cat" / "a.PNG", (5, 3), value=10)
    picture(tmp_path / "cat" / "c.png", mode="RGB", value=(30, 30, 30))
    picture(tmp_path / "horse" / "d.gif", value=40)
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    data = read(tmp_path, LABELLED)
    assert pixels(data)[:, 0, 0, 0].tolist() == [10, 30, 20, 40]
    assert data._labels.tolist() == [0, 0, 1, 0]  # an undeclared label is the default one
    assert all((each == each[0, 0, 0]).all() for each in pixels(data))


def test_pictures_are_converted_to_the_declared_channels(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (7, 7), "RGBA", (10, 20, 30, 255))
    picture(tmp_path / "b.png", (1, 1), "L", 9)
    data = read(tmp_path, Schema((Image("i", 2, 3, 3),)))
    assert pixels(data).shape == (2, 2, 3, 3)
    assert pixels(data)[0, 0, 0].tolist() == [10, 20, 30]
    assert pixels(data)[1].tolist() == np.full((2, 3, 3), 9).tolist()


def test_an_unreadable_picture_is_a_black_one(tmp_path: Path) -> None:
    picture(tmp_path / "good.png", (64, 64))
    good = (tmp_path / "good.png").read_bytes()
    rng = np.random.default_rng(0)
    for i in range(40):  # cut, scrambled, and not pictures at all
        bad = bytearray(good[: 10 + i] if i % 2 else good)
        bad[(10 + i) % len(bad)] ^= int(rng.integers(1, 256))
        (tmp_path / f"bad{i:02}.png").write_bytes(bad)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    found = pixels(read(tmp_path, PICTURE))
    assert len(found) == 44
    names = [*sorted(path.name for path in tmp_path.glob("*.png")), "text.jpg"]
    by_name = dict(zip(names, found, strict=True))
    assert (by_name["good.png"] == 200).all()
    for name in ("empty.png", "text.jpg", "folder.png", "bad01.png"):
        assert (by_name[name] == 0).all()


def test_a_folder_with_the_expected_layout_may_hold_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "labelled" / "cat").mkdir(parents=True)
    (tmp_path / "plain").mkdir()
    assert len(pixels(read(tmp_path / "labelled", LABELLED))) == 0
    assert len(pixels(read(tmp_path / "plain", PICTURE))) == 0
    with pytest.raises(PrivateDataError, match="no records"):
        read(tmp_path / "plain", PICTURE, "replace-one")


def test_a_folder_with_another_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    for schema in (LABELLED, PICTURE):
        with pytest.raises(PrivateDataError, match=r"image files.*Nothing was spent"):
            read(tmp_path, schema)
    with pytest.raises(SchemaError, match=r"one image column.*Nothing was spent"):
        read(tmp_path, Schema((Numeric("x", -10, 10),)))


def test_arrays_of_pictures_are_clipped_to_bytes(tmp_path: Path) -> None:
    floats = np.array([[[-5, 0.4], [254.6, 300]], [[np.nan, np.inf], [-np.inf, 7]]])
    expected = [[0, 0, 255, 255], [0, 255, 0, 7]]
    np.savez(tmp_path / "d.npz", i=floats)
    for data in ({"i": floats}, {"i": floats[..., None]}, {"i": floats.reshape(2, 4)}, tmp_path / "d.npz"):
        assert pixels(read(data, PICTURE)).reshape(2, 4).tolist() == expected
    lists = pa.table({"i": pa.array([[0, 0, 255, 255], [0, 255, 0, 7]], pa.list_(pa.uint8(), 4))})
    assert pixels(read(lists, PICTURE)).reshape(2, 4).tolist() == expected


@pytest.mark.parametrize("type_", [pa.list_(pa.uint8()), pa.large_list(pa.int64()), pa.list_(pa.float64())], ids=str)
def test_a_missing_or_misshapen_picture_among_lists_is_a_black_one(type_: pa.DataType) -> None:
    values = pa.array([[1, 2, 3, 4], None, [1], [], [1, 2, 3, 4, 5], [None, 2, 3, 4]], type_)
    found = pixels(read(pa.table({"i": values}), PICTURE)).reshape(-1, 4).tolist()
    assert found == [[1, 2, 3, 4], [0] * 4, [0] * 4, [0] * 4, [0] * 4, [0, 2, 3, 4]]


# -- depths, orientation, colours --------------------------------------------------------------------------------------


def encoded(picture_: Pictures.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture_.save(buffer, kind, **options)
    return buffer.getvalue()


def in_every_form(content: bytes, tmp_path: Path, schema: Schema) -> list[list[Any]]:
    """Pixels of one image file, read from a folder, from bytes and structs in Arrow, and from Python objects."""
    (tmp_path / "folder").mkdir(exist_ok=True)
    (tmp_path / "folder" / "a.png").write_bytes(content)  # decoders look at the content
    struct = pa.array([{"bytes": content, "path": None}])
    pa.parquet.write_table(pa.table({"i": struct}), tmp_path / "d.parquet")
    forms = [tmp_path / "folder", tmp_path / "d.parquet", pa.table({"i": [content]}), {"i": [content]}]
    forms.append({"i": [{"bytes": content}]})
    return [pixels(read(form, schema))[0].tolist() for form in forms]


GREY, COLOUR = Schema((Image("i", 1, 2),)), Schema((Image("i", 1, 2, 3),))
DEEP = np.array([[0, 65535]], np.uint16)
MIDDLE = np.array([[257 * 100, 257 * 200 + 100]], np.uint16)
CASES = {
    "16 bits": (encoded(Pictures.fromarray(DEEP)), GREY, [[[0], [255]]]),
    "16 bits, middle": (encoded(Pictures.fromarray(MIDDLE)), GREY, [[[100], [200]]]),
    "16 bits as colour": (encoded(Pictures.fromarray(MIDDLE)), COLOUR, [[[100] * 3, [200] * 3]]),
    "1 bit": (encoded(Pictures.fromarray(np.array([[False, True]]))), GREY, [[[0], [255]]]),
    "palette": (encoded(Pictures.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)).quantize(2)), COLOUR,
                [[[255, 0, 0], [0, 0, 255]]]),
    "alpha": (encoded(Pictures.fromarray(np.array([[[9, 9, 9, 0], [9, 9, 9, 255]]], np.uint8))), COLOUR,
              [[[255] * 3, [9] * 3]]),
    "grey and alpha": (encoded(Pictures.fromarray(np.array([[[9, 0], [9, 255]]], np.uint8))), GREY, [[[255], [9]]]),
    "CMYK": (encoded(Pictures.new("CMYK", (2, 1), (0, 0, 0, 0)), "JPEG"), COLOUR, [[[255] * 3] * 2]),
    "no picture": (b"no picture", GREY, [[[0], [0]]]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_depths_and_colours_are_brought_to_8_bits(tmp_path: Path, case: str) -> None:
    content, schema, expected = CASES[case]
    assert in_every_form(content, tmp_path, schema) == [expected] * 5


@pytest.mark.parametrize(("orientation", "expected"), [(1, [10, 250]), (2, [250, 10]), (3, [250, 10])])
def test_pictures_are_turned_as_their_exif_orientation_says(
    tmp_path: Path, orientation: int, expected: list[int]
) -> None:
    exif = Pictures.Exif()
    exif[0x0112] = orientation
    stored = Pictures.fromarray(np.array([[10, 250]], np.uint8))
    found = in_every_form(encoded(stored, exif=exif), tmp_path, GREY)
    assert found == [[[[value] for value in expected]]] * 5


def test_a_picture_that_stands_on_its_side_is_put_upright(tmp_path: Path) -> None:
    exif = Pictures.Exif()
    exif[0x0112] = 6  # turned to the left
    stored = Pictures.fromarray(np.array([[10], [250]], np.uint8))
    content = encoded(stored, exif=exif)
    assert in_every_form(content, tmp_path, GREY) == [[[[250], [10]]]] * 5
    cut = content.replace(b"eXIf", b"eXIg")  # damaged: read as it is stored, or not at all, and no error
    in_every_form(cut, tmp_path, GREY)


def test_a_drafted_picture_of_16_bits_is_grey(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(encoded(Pictures.fromarray(MIDDLE)))
    schema, _ = draft(tmp_path)
    assert schema.image == Image("image", 1, 2, 1)


def test_a_folder_without_labels_is_refused_for_its_folders_whatever_pictures_it_holds(tmp_path: Path) -> None:
    """Pictures are records: with them or without them the answer is one."""
    (tmp_path / "train").mkdir()
    for _ in range(2):
        with pytest.raises(PrivateDataError, match="no folders"):
            read(tmp_path, PICTURE)
        with pytest.raises(PrivateDataError, match="for each label"):
            read(tmp_path, LABELLED)
        picture(tmp_path / "train" / "a.png")
        picture(tmp_path / "a.png")
