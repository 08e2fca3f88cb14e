"""The text-rendering simulator: parameters, pictures, variations."""

import numpy as np
import pytest

from pe.apis.text_render import RANGES, TextRenderAPI
from pe.data.arrays import to_numpy
from pe.data.population import Population
from pe.data.schema import Categorical, Image, Numeric, Schema
from pe.errors import APIError, ConfigError, SchemaError

DIGITS = tuple(str(digit) for digit in range(10))


def schema(side: int = 16, channels: int = 1) -> Schema:
    return Schema((Image("image", side, side, channels), Categorical("digit", DIGITS)), label="digit")


def pixels(population: Population, declared: Schema) -> np.ndarray:
    assert declared.image is not None
    return to_numpy(population.records, declared.image).astype(float)


@pytest.fixture(scope="module")
def api() -> TextRenderAPI:
    return TextRenderAPI(schema())


def test_parameters_are_kept_in_their_ranges(api: TextRenderAPI) -> None:
    rng = np.random.default_rng(0)
    population = api.vary(api.random(200, 3, rng), 1.0, rng)
    assert population.parameters is not None
    for name, (low, high) in RANGES.items():
        columns = [c for c in population.parameters.column_names if c == name or c.startswith(f"{name}_")]
        assert columns
        for column in columns:
            values = population.parameters.column(column).to_numpy()
            assert low <= values.min() < values.max() <= high


def test_a_picture_depends_on_its_own_parameters_alone(api: TextRenderAPI) -> None:
    population = api.random(40, 5, np.random.default_rng(1))
    again = api.vary(population, 0.0, np.random.default_rng(2))
    assert again.records.equals(population.records)
    alone = api.vary(population.take(np.array([17])), 0.0, np.random.default_rng(3))
    assert np.array_equal(pixels(alone, api.schema)[0], pixels(population, api.schema)[17])


def test_larger_degrees_move_further_and_labels_stay(api: TextRenderAPI) -> None:
    rng = np.random.default_rng(0)
    parents = api.random(150, 8, rng)
    distances = []
    for degree in (0.0, 0.1, 0.5):
        varied = api.vary(parents, degree, rng)
        assert (varied.labels == 8).all()
        distances.append(np.abs(pixels(varied, api.schema) - pixels(parents, api.schema)).mean())
    assert distances[0] == 0 < distances[1] < distances[2]


@pytest.mark.parametrize("side", [8, 28])
def test_digits_can_be_told_apart(side: int) -> None:
    """A nearest-centroid classifier fitted to one draw reads another."""
    declared, rng = schema(side), np.random.default_rng(0)
    tight = {"rotation": 5, "warp": 0.02, "slant": 0.1, "size": (0.9, 1.0), "aspect": (0.9, 1.1), "x": 0.03, "y": 0.03}
    api = TextRenderAPI(declared, fonts=["DejaVuSans", "DejaVuSerif"], ranges=tight)
    draws = [
        np.stack([pixels(api.random(80, digit, rng), declared).reshape(80, -1) for digit in range(10)])
        for _ in range(2)
    ]
    centres = draws[0].mean(axis=1)
    distances = ((draws[1][:, :, None, :] - centres) ** 2).sum(axis=3)
    assert np.mean(distances.argmin(axis=2) == np.arange(10)[:, None]) > 0.9


def test_ink_and_channels() -> None:
    rng = [np.random.default_rng(0) for _ in range(2)]
    white = pixels(TextRenderAPI(schema()).random(20, 1, rng[0]), schema())
    black = pixels(TextRenderAPI(schema(16, 3), ink="black").random(20, 1, rng[1]), schema(16, 3))
    assert np.array_equal(np.repeat(255 - white, 3, axis=3), black)


def test_samples_of_another_api_are_refused(api: TextRenderAPI) -> None:
    population = api.random(3, 0, np.random.default_rng(0))
    foreign = Population.of(population.records, 0, "other")
    with pytest.raises(APIError, match="only vary samples that it drew itself"):
        api.vary(foreign, 0.5, np.random.default_rng(0))


def test_wrong_schemas_and_settings_are_refused() -> None:
    with pytest.raises(SchemaError, match="one image column"):
        TextRenderAPI(Schema((Numeric("x", 0, 1),)))
    for keys, text in (
        ({"ink": "red"}, "expected ink"),
        ({"fonts": ["NoSuchFont"]}, "cannot be read"),
        ({"ranges": {"colour": 1}}, "expected ranges of"),
        ({"texts": {"x": ["y"]}}, "which is no label"),
        ({"texts": {"0": ["汉"]}}, "no font holds every character"),
    ):
        with pytest.raises(ConfigError, match=text):
            TextRenderAPI(schema(), **keys)
