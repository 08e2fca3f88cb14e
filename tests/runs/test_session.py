"""Whole runs in one process: images, several APIs, exports, faults of APIs and embedders."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image as Pictures

import pe
from pe.apis.tabular import TabularAPI
from pe.cli import main
from pe.errors import APIError, ConfigError, EmbedderError, LedgerError, RunError, RunMismatchError
from pe.evolution import methods
from pe.preflight import PARENTS

DIGITS = ("0", "1", "2")
PICTURES = pe.Schema((pe.Image("image", 8, 8), pe.Categorical("digit", DIGITS)), label="digit")
TABLE = pe.Schema((pe.Numeric("x", 0, 1), pe.Categorical("kind", ("a", "b"))), label="kind")
BUDGET = {"epsilon": 2.0, "delta": 1e-5, "adjacency": "replace-one", "create": True}


def pictures(n: int = 120) -> dict[str, np.ndarray]:
    """Blobs: the label says where the ink is."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=n)
    images = rng.integers(0, 60, (n, 8, 8), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 3] += 180
    return {"image": images, "digit": labels}


def points(n: int = 150) -> pa.Table:
    rng = np.random.default_rng(1)
    return pa.table({"x": rng.beta(2, 8, n), "kind": rng.choice(["a", "b"], n)})


def test_a_plan_that_mixes_apis_over_rounds(tmp_path: Path) -> None:
    public = pictures(60)
    np.savez(tmp_path / "public.npz", **public)
    stages = [
        {"kind": "text_render", "rounds": 2},
        {"kind": "nearest", "path": str(tmp_path / "public.npz")},
    ]
    made = pe.synthesize(
        pictures(), schema=PICTURES, source="p", api=stages, iterations=4, rows=30, run=tmp_path / "run", **BUDGET
    )
    assert set(made.population.origin.to_pylist()) == {"nearest"}
    known = {image.tobytes() for image in public["image"]}
    assert all(image.tobytes() in known for image in made.to_numpy("image"))
    assert "the public data of the API: public.npz" in made.certificate["declared_public"]


def test_images_in_every_format(tmp_path: Path) -> None:
    formats = ["imagefolder", "npz", "parquet", "hf"]
    made = pe.synthesize(
        pictures(), schema=PICTURES, source="p", iterations=2, rows=9, formats=formats, run=tmp_path / "run", **BUDGET
    )
    release = tmp_path / "run" / "release"
    images, labels = made.to_numpy("image"), made.to_numpy("digit")
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        with Pictures.open(release / "images" / label / f"{index:06d}.png") as picture:
            assert np.array_equal(np.asarray(picture), image[:, :, 0])
    with np.load(release / "synthetic.npz") as archive:
        assert np.array_equal(archive["image"], images)
        assert np.array_equal(archive["digit"], labels)
    again = pe.load(tmp_path / "run")
    assert np.array_equal(again.to_numpy("image"), images)
    # the folder of one run is read as the private data of another
    other = pe.synthesize(
        release / "images", schema=PICTURES, source="q", iterations=1, rows=3, run=tmp_path / "other", **BUDGET
    )
    assert len(other) == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_hugging_face_folder_loads_with_its_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    made = pe.synthesize(
        pictures(), schema=PICTURES, source="p", iterations=1, rows=9, formats=["hf"], run=tmp_path / "run", **BUDGET
    )
    folder = tmp_path / "run" / "release" / "hf"
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features["digit"].names == list(DIGITS)
    assert [DIGITS[code] for code in loaded["digit"]] == made.to_numpy("digit").tolist()
    assert np.array_equal(np.asarray(loaded[4]["image"]), made.to_numpy("image")[4, :, :, 0])


def test_image_runs_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index, (image, label) in enumerate(zip(*pictures(30).values(), strict=True)):
        folder = tmp_path / "private" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        Pictures.fromarray(image).save(content, format="PNG")
        (folder / f"{index}.png").write_bytes(content.getvalue())
    with pytest.raises(SystemExit) as exit_:
        main(["init", str(tmp_path), "--from-public", str(tmp_path / "private"), "--data", "private"])
    assert exit_.value.code == 0
    config = tmp_path / "pe.toml"
    config.write_text(config.read_text().replace("# rows = 1000", "rows = 12 #"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(["synthesize", str(config), "--create", "--json"])
    assert exit_.value.code == 0
    assert any(name.endswith("contact_sheet.html") for name in json.loads(capsys.readouterr().out)["files"])


class Faulty(TabularAPI):
    """Breaks its contract from the second round of variations on."""

    calls = 0
    wrong = "few"

    def vary(self, parents, degree, rng):
        made = super().vary(parents, degree, rng)
        Faulty.calls += len(parents) > PARENTS  # the trial before the first charge is of few
        if Faulty.calls < 2:
            return made
        if Faulty.wrong == "few":
            return made.take(np.arange(len(made) - 1))
        if Faulty.wrong == "many":
            return made.take(np.arange(len(made) + 1) % len(made))
        if Faulty.wrong == "raise":
            raise TimeoutError("no answer")
        return pe.Population.of(
            made.records.set_column(0, made.records.schema.field(0), pa.array(made.records["x"].to_numpy() + 5)),
            made.labels,
            "x",
        )


@pytest.mark.parametrize(
    ("wrong", "text"),
    [("few", "got 29"), ("many", "got 31"), ("raise", "no answer"), ("domain", "leaves its domain")],
)
def test_an_api_that_breaks_its_contract_costs_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, text: str
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "faulty", sys.modules[__name__])
    monkeypatch.setattr(Faulty, "calls", 0)
    monkeypatch.setattr(Faulty, "wrong", wrong)
    keys = {
        "schema": TABLE,
        "source": "s",
        "api": "faulty:Faulty",
        "rows": 10,
        "iterations": 3,
        "label_shares": "uniform",
    }
    with pytest.raises(APIError, match=text) as caught:
        pe.synthesize(points(), run=tmp_path / "run", **keys, **BUDGET)
    assert "1 of 3 iterations are stored" in str(caught.value)
    assert "is spent" in str(caught.value)
    stored = (tmp_path / "run" / "iterations" / "002" / "histogram.npz").read_bytes()
    monkeypatch.setattr(Faulty, "calls", -100)
    made = pe.synthesize(points(), run=tmp_path / "run", **keys, **BUDGET)
    charged = [row["iteration"] for row in made.certificate["entries"] if row["kind"] == "reserve"]
    assert charged == [1, 2, 3]
    assert (tmp_path / "run" / "iterations" / "002" / "histogram.npz").read_bytes() == stored


class Blind:
    """An embedder that fails on everything."""

    name, dim, scale, limit = "blind", 1, 1.0, 1

    def __init__(self, schema: pe.Schema) -> None:
        pass

    def embed(self, table: pa.Table) -> np.ndarray:
        return np.full((table.num_rows, 1), np.nan, np.float32)


def test_an_embedder_that_returns_nan_is_found_before_any_vote_is_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "blind", sys.modules[__name__])
    keys = {"schema": TABLE, "source": "s", "embedder": "blind:Blind", "rows": 10, "label_shares": "uniform"}
    with pytest.raises(EmbedderError, match=r"returned NaN.*epsilon 0 of 2 is spent"):
        pe.synthesize(points(), run=tmp_path / "run", **keys, **BUDGET)


def test_a_table_without_label_and_data_in_memory(tmp_path: Path) -> None:
    schema = pe.Schema((pe.Numeric("x", 0, 1),))
    made = pe.synthesize(points(), schema=schema, source="s", rows=20, run=tmp_path / "run", **BUDGET)
    assert made.to_arrow().column_names == ["x"]
    assert len(made) == 20
    made.to_csv(tmp_path / "out.csv")
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 21
    with pytest.raises(ConfigError, match="expected a source name"):
        pe.synthesize(points(), schema=schema, **BUDGET)


def test_equal_data_under_two_names_are_warned_about(tmp_path: Path) -> None:
    keys = {"schema": TABLE, "rows": 10, "iterations": 1, **BUDGET}
    assert pe.synthesize(points(), source="one", run=tmp_path / "1", **keys).warnings == ()
    (warning,) = pe.synthesize(points(), source="two", run=tmp_path / "2", **keys).warnings
    assert "source 'one' was charged for the same data" in warning


def test_a_source_keeps_its_columns_but_may_change_its_label(tmp_path: Path) -> None:
    keys = {"source": "s", "rows": 10, "iterations": 1, **BUDGET}
    pe.synthesize(points(), schema=TABLE, run=tmp_path / "1", **keys)
    pe.Ledger().grant("s", 9.0, 1e-5)
    unlabelled = pe.synthesize(points(), schema=TABLE.with_label(None), run=tmp_path / "2", **keys)
    assert [row["kind"] for row in unlabelled.certificate["entries"]].count("schema") == 1
    wider = pe.Schema((pe.Numeric("x", 0, 2), pe.Categorical("kind", ("a", "b"))))
    with pytest.raises(LedgerError, match=r"declared under another schema.*Nothing was spent"):
        pe.synthesize(tmp_path / "never read", schema=wider, run=tmp_path / "3", **keys)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"nonsense"])
def test_a_damaged_histogram_is_one_sentence_and_never_drawn_again(tmp_path: Path, content: bytes) -> None:
    def made() -> pe.Synthetic:
        return pe.synthesize(points(), schema=TABLE, source="p", iterations=2, rows=9, run=tmp_path / "run", **BUDGET)

    made()
    (tmp_path / "run" / "iterations" / "001" / "histogram.npz").write_bytes(content)
    with pytest.raises(RunError, match=r"histogram\.npz is damaged .*Nothing was spent"):
        made()


def test_a_run_of_another_versions_method_is_refused_by_name_before_anything_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"schema": TABLE, "rows": 9, "method": "aug-pe", "iterations": 2, "run": tmp_path / "run", **BUDGET}
    pe.synthesize(points(), source="p", **keys)
    charged = len(pe.Ledger().chain("p"))
    population, rounds = methods.aug_pe(9, 2, 2)
    changed = [rounds[0], rounds[1] | {"nearest": 2}]
    monkeypatch.setitem(methods._METHODS, "aug-pe", (10, lambda *_: (population, [dict(each) for each in changed])))
    with pytest.raises(
        RunMismatchError, match=r"another plan of its noise: rounds\.2\.contribution.* was .*Nothing was"
    ):
        pe.synthesize(points(), source="p", **keys)
    assert len(pe.Ledger().chain("p")) == charged
    for folder in ("iterations", "release"):  # as if it had been begun, and nothing stored: it starts anew
        shutil.rmtree(tmp_path / "run" / folder)
    (tmp_path / "run" / "released.parquet").unlink()
    pe.Ledger().grant("p", 9.0, 1e-5)
    assert len(pe.synthesize(points(), source="p", **keys)) == 9
