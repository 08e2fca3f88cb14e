"""The private data set shows, copies and iterates nothing."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pyarrow as pa
import pytest

from pe.data.arrays import to_table
from pe.data.schema import Categorical, Image, Numeric, Schema
from pe.privacy import Adjacency
from pe.private.dataset import PrivateDataset

SCHEMA = Schema((Numeric("x", 0, 9999), Image("i", 1, 2), Categorical("y", ("no", "yes"))), "y")


def private(x: float = 4711, pixel: int = 7, label: int = 1, schema: Schema = SCHEMA) -> PrivateDataset:
    arrays = {"x": np.array([x, 1.0]), "i": np.array([[pixel, 1], [2, 3]], np.uint8)}
    return PrivateDataset(to_table(arrays, SCHEMA), np.array([label, 0], np.int32), schema)


def test_it_shows_nothing() -> None:
    data = private()
    assert repr(data) == str(data) == f"{data}" == "PrivateDataset(private)"
    assert not hasattr(data, "__dict__")


def test_it_does_not_iterate_and_has_no_length() -> None:
    for steal in (iter, len, list):
        with pytest.raises(TypeError):
            steal(private())  # type: ignore[call-overload]


@pytest.mark.parametrize("steal", [copy.copy, copy.deepcopy, pickle.dumps])
def test_it_cannot_be_copied_or_pickled(steal: object) -> None:
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        steal(private())  # type: ignore[operator]


def test_its_digest_changes_with_every_part_of_it() -> None:
    other = Schema((*SCHEMA.columns[:2], Categorical("y", ("no", "yes", "maybe"))), "y")
    digests = [
        data.content_digest()
        for data in (private(), private(x=1), private(pixel=8), private(label=0), private(schema=other))
    ]
    assert len(set(digests)) == 5
    assert private().content_digest() == digests[0]


def test_labels_are_kept_apart_from_the_records() -> None:
    table = pa.table({"y": ["yes", "no", "perhaps"], "x": [1, 2, 3], "i": [[1, 2]] * 3})
    data = PrivateDataset.read(table, SCHEMA, adjacency=Adjacency.ADD_REMOVE)
    assert data._labels.tolist() == [1, 0, 0]
    assert data._records.schema.equals(SCHEMA.arrow())


def test_without_a_label_every_record_has_the_only_one() -> None:
    data = PrivateDataset.read({"x": [1, 2]}, Schema((SCHEMA.columns[0],)), adjacency=Adjacency.ADD_REMOVE)
    assert data._labels.tolist() == [0, 0]


@pytest.mark.parametrize("adjacency", [Adjacency.REPLACE_ONE, "replace-one"])
def test_no_records_are_refused_where_their_number_is_public(adjacency: Adjacency) -> None:
    with pytest.raises(Exception, match="no records"):
        PrivateDataset.read({"x": []}, Schema((SCHEMA.columns[0],)), adjacency=adjacency)
