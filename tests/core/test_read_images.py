"""Reading pictures: folders and arrays of them, in order, converted, and none that a single file can break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image as Pictures

from pe.data.arrays import to_numpy
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
