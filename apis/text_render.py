"""Pictures of text as a simulator with parameters (Sim-PE): random = draw the parameters, vary = move them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.apis.tabular import TabularAPI
from pe.data.arrays import to_numpy, to_table
from pe.data.population import Population
from pe.data.schema import Categorical, Image, Numeric, Schema
from pe.errors import APIError, ConfigError, SchemaError

RANGES: Mapping[str, tuple[float, float]] = {
    "size": (0.7, 1.05),
    "aspect": (0.7, 1.3),
    "rotation": (-15.0, 15.0),
    "slant": (-0.3, 0.3),
    "stroke": (-0.02, 0.08),
    "x": (-0.1, 0.1),
    "y": (-0.06, 0.06),
    "warp": (-0.08, 0.08),
    "blur": (1.0, 2.0),
    "intensity": (0.7, 1.0),
}
"""What a sample's numbers are drawn from. Lengths are relative to the image height.

size       height of a capital letter (less where the text is too wide for the image)
aspect     stretch of the width
rotation   degrees, counter-clockwise
slant      shear: how far the top leans to the right per unit of height
stroke     added to the width of every stroke; negative: taken off
x, y       offset of the text's middle from the image's, to the right and down
warp       smooth bending: the range of each of eight coefficients (Amit, Grenander & Piccioni 1991)
blur       width of the edge between ink and background, in pixels; 1 is a sharp scan
intensity  brightness of the ink, 1 is full
"""

FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmtt10", "cmti10"),
)
"""The text fonts that come with matplotlib."""

_MARGIN = 0.3
"""Room around the unit box of a glyph, so that what lies outside is known to be far from any ink."""

_WAVES = ((1, 1), (1, 2), (2, 1), (2, 2))
_POINTS = 2**18
_GLYPH_BYTES = 2**27


class TextRenderAPI:
    """Draws text of varying font, size, aspect, rotation, slant, stroke, position, bend, blur and brightness.

    ``vary`` redraws the text and the font with probability ``degree`` and moves each number by ``degree`` times its
    range times a uniform on [-1, 1], reflected at the range's ends (as the tabular API does), then renders again: at
    degree 0 the picture stays as it is.

    texts   label -> the strings to draw; by default the label itself.
    fonts   names from ``FONTS`` or paths of font files; by default all of ``FONTS`` that hold every character.
    ranges  replaces entries of ``RANGES``; one number r stands for [-r, r].
    ink     "white" on black, or "black" on white.

    A glyph is drawn once per (text, font) and kept as a distance field, in which stroke width and blur are a
    threshold and a slope (Green 2007, Improved alpha-tested magnification); a batch is then sampled from the fields.

    Raises SchemaError unless the schema has one image column and nothing else beside a label, ConfigError for a
    setting that cannot be used.
    """

    name = "text_render"

    def __init__(
        self,
        schema: Schema,
        *,
        texts: Mapping[str, Sequence[str]] | None = None,
        fonts: Sequence[str] | None = None,
        ranges: Mapping[str, float | Sequence[float]] | None = None,
        ink: str = "white",
    ) -> None:
        image = schema.image
        if image is None or len(schema.features) != 1:
            raise SchemaError(
                "the text_render API needs one image column and nothing else beside the label. Nothing was spent."
            )
        if ink not in ("white", "black"):
            raise ConfigError(f"expected ink 'white' or 'black', got {ink!r}. Nothing was spent.")
        self.schema = schema
        self.image: Image = image
        self.ink = ink
        self.texts = _texts(schema.labels, texts)
        self.fonts = _usable(fonts, {c for strings in self.texts for text in strings for c in text})
        self._space = _space(tuple(self.fonts), dict(ranges or {}))
        self._parameters = TabularAPI(self._space)
        self._supersampling = max(1, -(-24 // image.height))
        self._raster = min(max(64, 2 * image.height), 256)
        side = round(self._raster * (1 + 2 * _MARGIN))
        self._frame = (side, round(self._raster * (image.width / image.height + 2 * _MARGIN)))
        kept = max(64, _GLYPH_BYTES // (4 * self._frame[0] * self._frame[1]))
        self._glyph = lru_cache(maxsize=kept)(self._distance_field)

    def random(self, n: int, label: int, rng: np.random.Generator) -> Population:
        text = rng.integers(len(self.texts[label]), size=n, dtype=np.int32)
        numbers = self._parameters.random(n, 0, rng).records
        return self._population(text, numbers, np.full(n, label, np.int32))

    def vary(self, parents: Population, degree: float, rng: np.random.Generator) -> Population:
        """See the class; raises APIError for parents that another API made and that carry no parameters of this one."""
        names = ["text", *self._space.arrow().names]
        if parents.parameters is None or set(parents.parameters.column_names) != set(names):
            raise APIError(
                "the text_render API can only vary samples that it drew itself: these carry no drawing parameters."
            )
        n = len(parents)
        held = parents.parameters.select(names[1:]).cast(self._space.arrow())
        text = parents.parameters.column("text").to_numpy().astype(np.int32)
        choices = np.array([len(strings) for strings in self.texts])[parents.labels]
        redrawn = rng.integers(choices, size=n).astype(np.int32)
        text = np.where(rng.random(n) < degree, redrawn, text)
        moved = self._parameters.vary(Population.of(held, 0, self.name), degree, rng).records
        return self._population(text, moved, parents.labels)

    def _population(self, text: NDArray[np.int32], numbers: pa.Table, labels: NDArray[np.int32]) -> Population:
        pixels = self.render(text, numbers, labels)
        records = to_table({self.image.name: pixels}, self.schema)
        parameters = numbers.add_column(0, "text", pa.array(text, pa.int32()))
        return Population.of(records, labels, self.name, parameters)

    def render(self, text: NDArray[np.int32], numbers: pa.Table, labels: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Pictures, uint8 (n, height, width, channels), of the labels' texts under the parameters in ``numbers``."""
        n = len(labels)
        columns = {c.name: to_numpy(numbers, c) for c in self._space.columns}
        font = columns.pop("font")
        values = {name: column.astype(np.float32)[:, None] for name, column in columns.items()}
        keys = np.stack([labels, text, font], axis=1).astype(np.int64)
        height, width = self.image.height, self.image.width
        grid = self._grid()
        per = max(1, _POINTS // len(grid[0]))
        result = np.empty((n, height, width, self.image.channels), np.uint8)
        for start in range(0, n, per):
            rows = slice(start, min(start + per, n))
            ink = self._ink(keys[rows], {name: value[rows] for name, value in values.items()}, grid)
            s = self._supersampling
            bytes_ = np.rint(255 * ink.reshape(-1, height, s, width, s).mean(axis=(2, 4))).astype(np.uint8)
            result[rows] = bytes_[..., None]
        return result if self.ink == "white" else 255 - result

    def _grid(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """x and y of every sampled point, (points,), in image heights from the middle, to the right and down."""
        s, height, width = self._supersampling, self.image.height, self.image.width
        y = (np.arange(height * s, dtype=np.float32) + 0.5) / (height * s) - 0.5
        x = ((np.arange(width * s, dtype=np.float32) + 0.5) / (width * s) - 0.5) * (width / height)
        down, right = np.meshgrid(y, x, indexing="ij")
        return right.ravel().astype(np.float32), down.ravel().astype(np.float32)

    def _ink(
        self,
        keys: NDArray[np.int64],
        v: Mapping[str, NDArray[np.float32]],
        grid: tuple[NDArray[np.float32], NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        """Share of ink in [0, 1], float32 (n, points): every point is traced back to where it lies in its glyph."""
        right, down = grid
        x, y = right - v["x"], down - v["y"]
        ratio = np.float32(self.image.width / self.image.height)
        for wave, (a, b) in enumerate(_WAVES):
            # elementwise sums, not a matrix product: a sample's pixels must not depend on the batch it is in
            bump = np.sin(np.pi * a * (right / ratio + 0.5)) * np.sin(np.pi * b * (down + 0.5))
            x += v[f"warp_x{wave}"] * bump
            y += v[f"warp_y{wave}"] * bump
        turn = np.deg2rad(v["rotation"])
        cosine, sine = np.cos(turn), np.sin(turn)
        x, y = cosine * x - sine * y, sine * x + cosine * y
        x = (x + v["slant"] * y) / (v["size"] * v["aspect"])
        y = y / v["size"]
        wanted, which = np.unique(keys, axis=0, return_inverse=True)
        fields = np.stack([self._glyph(self.texts[label][text], int(font)) for label, text, font in wanted])
        column, row = (x + 0.5 * ratio + _MARGIN) * self._raster, (y + 0.5 + _MARGIN) * self._raster
        distance = _bilinear(fields, which.reshape(-1), column, row)
        edge = v["blur"] / np.float32(self.image.height)
        distance = distance * v["size"] + 0.5 * v["stroke"]
        ink: NDArray[np.float32] = v["intensity"] * np.clip(distance / edge + np.float32(0.5), 0, 1)
        return ink

    def _distance_field(self, text: str, font: int) -> NDArray[np.float32]:
        """Signed distance to the edge of the ink (inside positive), in capital heights, at size 1; the text centred.

        A capital letter of the font is one unit high; a text that would not fit the image is shrunk to fit it.
        """
        from PIL import Image as Pictures
        from PIL import ImageDraw, ImageFont
        from scipy.ndimage import distance_transform_edt

        fine = 2  # drawn twice as fine as it is kept: the ink is cut at half grey
        path = self.fonts[list(self.fonts)[font]]
        probe = ImageFont.truetype(path, 100)
        capital = probe.getbbox("H")
        left, top, right, bottom = probe.getbbox(text)
        unit = max(capital[3] - capital[1], bottom - top, (right - left) * self.image.height / self.image.width, 1.0)
        face = ImageFont.truetype(path, 100 * fine * self._raster / unit)
        left, top, right, bottom = face.getbbox(text)
        rows, columns = fine * self._frame[0], fine * self._frame[1]
        picture = Pictures.new("L", (columns, rows))
        middle = ((columns - left - right) / 2, (rows - top - bottom) / 2)
        ImageDraw.Draw(picture).text(middle, text, fill=255, font=face)
        ink = np.asarray(picture) > 127
        if not ink.any():
            return np.full(self._frame, -1.0, np.float32)
        inside, outside = distance_transform_edt(ink), distance_transform_edt(~ink)
        signed = np.where(ink, inside - 0.5, 0.5 - outside) / (fine * self._raster)
        coarse: NDArray[Any] = signed.reshape(self._frame[0], fine, self._frame[1], fine).mean(axis=(1, 3))
        return coarse.astype(np.float32)


def _bilinear(
    fields: NDArray[np.float32], which: NDArray[np.int64], x: NDArray[np.float32], y: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Values of ``fields`` (k, rows, columns) at (x, y) in cells, float32 (n, points); the border extends outwards."""
    _, rows, columns = fields.shape
    x = np.clip(x - np.float32(0.5), 0, columns - 1.001)
    y = np.clip(y - np.float32(0.5), 0, rows - 1.001)
    column, row = x.astype(np.int32), y.astype(np.int32)
    x -= column
    y -= row
    corner = (which[:, None] * rows + row) * columns + column
    flat = fields.reshape(-1)
    top = flat[corner]
    top += x * (flat[corner + 1] - top)
    corner += columns
    bottom = flat[corner]
    bottom += x * (flat[corner + 1] - bottom)
    bottom -= top
    result: NDArray[np.float32] = top + y * bottom
    return result


def _texts(labels: Sequence[str], texts: Mapping[str, Sequence[str]] | None) -> tuple[tuple[str, ...], ...]:
    given = dict(texts or {})
    if unknown := set(given) - set(labels):
        raise ConfigError(f"texts names '{sorted(unknown)[0]}', which is no label. Nothing was spent.")
    chosen = []
    for label in labels:
        strings = given.get(label, [label])
        strings = (strings,) if isinstance(strings, str) else tuple(strings)
        if not strings or not all(isinstance(text, str) and text.strip() and text.isprintable() for text in strings):
            raise ConfigError(f"expected printable text to draw for label '{label}': set texts. Nothing was spent.")
        chosen.append(strings)
    return tuple(chosen)


def _usable(fonts: Sequence[str] | None, characters: set[str]) -> dict[str, str]:
    """Font name -> path of its file: the named fonts, or those of the default that hold every character."""
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    folder = Path(get_data_path()) / "fonts" / "ttf"
    usable = {}
    for name in FONTS if fonts is None else fonts:
        path = folder / f"{name}.ttf" if name in FONTS else Path(name)
        try:
            held = FT2Font(str(path)).get_charmap()
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"font '{name}' cannot be read: {error}. Nothing was spent.") from None
        missing = sorted(c for c in characters if ord(c) not in held)
        if not missing:
            usable[name] = str(path)
        elif fonts is not None:
            raise ConfigError(f"font '{name}' has no character {missing[0]!r}. Nothing was spent.")
    if not usable:
        raise ConfigError("no font holds every character of the texts: set fonts. Nothing was spent.")
    return usable


def _space(fonts: tuple[str, ...], given: dict[str, float | Sequence[float]]) -> Schema:
    """The parameters of a sample, as columns."""
    if unknown := set(given) - set(RANGES):
        known = ", ".join(RANGES)
        raise ConfigError(f"expected ranges of {known}; got '{sorted(unknown)[0]}'. Nothing was spent.")
    columns: list[Categorical | Numeric] = [Categorical("font", fonts)]
    for name, default in RANGES.items():
        value = given.get(name, default)
        low, high = (-value, value) if isinstance(value, (int, float)) else tuple(value)
        if name in ("size", "aspect", "blur") and low <= 0:
            raise ConfigError(f"expected a range above 0 for {name}, got {value}. Nothing was spent.")
        try:
            names = [f"warp_{axis}{wave}" for axis in "xy" for wave in range(len(_WAVES))] if name == "warp" else [name]
            columns += [Numeric(each, low, high) for each in names]
        except SchemaError as error:
            raise ConfigError(f"ranges: {error} Nothing was spent.") from None
    return Schema(tuple(columns))
