"""Several APIs as one: shares, votes, parameters, schedules, and a run that is resumed."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import pe
from pe.apis.mixture import MixtureAPI
from pe.build import build_apis
from pe.config import Config
from pe.data.arrays import to_numpy, to_table
from pe.data.population import Population
from pe.errors import APIError, ConfigError
from pe.protocols import API, Adaptive

SCHEMA = pe.Schema((pe.Numeric("x", 0, 1), pe.Categorical("kind", ("a", "b"))), label="kind")
BUDGET = {"epsilon": 4.0, "delta": 1e-5, "adjacency": "replace-one", "create": True}


class Around:
    """Numbers near ``place``; a sample carries its serial number, and is varied by nobody else with it."""

    def __init__(self, schema: pe.Schema, *, place: float, name: str = "around") -> None:
        self.name, self.place, self.asked = name, place, [0, 0]
        self.seen: list[pa.Table | None] = []

    def random(self, n: int, label: int, rng: np.random.Generator) -> Population:
        self.asked[0] += n
        return self._made(n, np.full(n, label), rng)

    def vary(self, parents: Population, degree: float, rng: np.random.Generator) -> Population:
        self.asked[1] += len(parents)
        self.seen.append(parents.parameters)
        return self._made(len(parents), parents.labels, rng)

    def _made(self, n: int, labels: np.ndarray, rng: np.random.Generator) -> Population:
        records = to_table({"x": np.clip(rng.normal(self.place, 0.02, n), 0, 1)}, SCHEMA)
        return Population.of(records, labels, self.name, pa.table({"place": np.full(n, self.place)}))


def pair(**keys: object) -> MixtureAPI:
    low, high = Around(SCHEMA, place=0.1, name="low"), Around(SCHEMA, place=0.9, name="high")
    return MixtureAPI.of([low, high], **keys)  # type: ignore[arg-type]


def made_by(population: Population) -> dict[str, int]:
    names, counts = np.unique(population.origin.to_pylist(), return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def test_members_make_their_shares_under_their_own_names() -> None:
    mixture = pair(shares=[3, 1])
    drawn = mixture.random(40, 1, np.random.default_rng(0))
    assert made_by(drawn) == {"low": 30, "high": 10}
    varied = mixture.vary(drawn, 0.5, np.random.default_rng(0))
    assert made_by(varied) == {"low": 30, "high": 10}
    near = np.where(np.array(varied.origin.to_pylist()) == "low", 0.1, 0.9)
    assert np.abs(to_numpy(varied.records, SCHEMA.column("x")) - near).max() < 0.2
    assert mixture.vary(drawn, 0.5, np.random.default_rng(0)).records.equals(varied.records)


def test_two_members_of_one_name_are_told_apart() -> None:
    mixture = MixtureAPI.of([Around(SCHEMA, place=0.1), Around(SCHEMA, place=0.9)])
    assert made_by(mixture.random(4, 0, np.random.default_rng(0))) == {"around": 2, "around-2": 2}


def test_parameters_go_back_to_their_maker_and_to_no_other() -> None:
    mixture = pair()
    drawn = mixture.random(40, 0, np.random.default_rng(0))
    stored = Population.from_table(drawn.to_table(), SCHEMA)
    mixture.vary(stored, 0.5, np.random.default_rng(1))
    for member in mixture.members:
        assert isinstance(member, Around)
        own, foreign = member.seen
        assert own is not None
        assert foreign is None
        assert set(own.column("place").to_pylist()) == {member.place}


def test_each_sample_goes_to_its_own_maker_if_asked() -> None:
    mixture = pair(parents="own", shares=[1, 3])
    drawn = mixture.random(40, 0, np.random.default_rng(0))
    assert mixture.vary(drawn, 0.5, np.random.default_rng(1)).origin.to_pylist() == drawn.origin.to_pylist()


def test_shares_follow_the_votes_and_noise_alone_moves_nothing() -> None:
    mixture = pair()
    assert isinstance(mixture, Adaptive)
    candidates = mixture.random(200, 0, np.random.default_rng(0))
    low = np.array(candidates.origin.to_pylist()) == "low"
    votes = np.where(low, 30.0, 10.0)
    assert mixture.adapted(candidates, votes, 1.0).share == pytest.approx([0.75 * 0.9 + 0.05, 0.25 * 0.9 + 0.05], 0.01)
    assert mixture.share.tolist() == [0.5, 0.5]
    noise = np.random.default_rng(1).normal(0, 100, (300, 200))
    moved = np.array([mixture.adapted(candidates, 20 + each, 100.0).share[0] for each in noise])
    assert np.mean(np.abs(moved - 0.5) < 1e-9) > 0.6
    certain = np.array([mixture.adapted(candidates, votes + each, 100.0).share[0] for each in noise])
    assert certain.mean() > moved.mean() + 0.1
    assert pair(follow="nothing").adapted(candidates, votes, 1.0).share.tolist() == [0.5, 0.5]
    assert mixture.adapted(candidates, -votes, 1.0).share.tolist() == [0.5, 0.5]
    none = mixture.adapted(candidates, np.where(low, 1.0, 0.0), 0.0)
    assert none.share == pytest.approx([0.95, 0.05])
    alone = candidates.take(np.flatnonzero(low))
    assert mixture.adapted(alone, np.ones(len(alone)), 0.0).share == pytest.approx([0.5, 0.5])


def test_what_no_member_made_counts_for_none() -> None:
    mixture = pair(shares=[1, 3])
    foreign = Around(SCHEMA, place=0.5, name="other").random(10, 0, np.random.default_rng(0))
    assert mixture.adapted(foreign, np.ones(10), 1.0).share.tolist() == [0.25, 0.75]
    varied = mixture.vary(foreign, 0.5, np.random.default_rng(0))
    assert made_by(varied) in ({"low": 2, "high": 8}, {"low": 3, "high": 7})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"shares": [1]}, "two members or more"),
        ({"shares": [1, -1]}, "shares > 0"),
        ({"floor": 0.6}, "a floor in"),
        ({"follow": "luck"}, "expected follow 'votes' or 'nothing'"),
        ({"parents": "any of them"}, "expected parents"),
    ],
)
def test_bad_settings(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pair(**keys)


def test_a_member_that_makes_too_few_is_named() -> None:
    class Lazy(Around):
        def _made(self, n: int, labels: np.ndarray, rng: np.random.Generator) -> Population:
            return super()._made(n - 1, labels[1:], rng)

    mixture = MixtureAPI.of([Around(SCHEMA, place=0.1), Lazy(SCHEMA, place=0.1, name="lazy")])
    with pytest.raises(APIError, match="'lazy', of a mixture: expected 2 samples, got 1"):
        mixture.random(4, 0, np.random.default_rng(0))


# -- in a configuration ------------------------------------------------------------------------------------------------

MEMBERS = [
    {"kind": f"{__name__}:Around", "place": 0.1, "name": "low", "share": 1},
    {"kind": f"{__name__}:Around", "place": 0.9, "name": "high", "share": 3},
]


def config(**api: object) -> Config:
    return Config.of(
        {
            "private": {"source": "p", "path": "private.csv"},
            "privacy": {"epsilon": 1.0, "delta": 1e-5, "adjacency": "replace-one"},
            "api": {"kind": "mixture", **api},
            "output": {"run": "run"},
        }
    )


def test_members_are_sections() -> None:
    (api,) = build_apis(config(members=MEMBERS, floor=0.1), SCHEMA)
    assert isinstance(api, MixtureAPI)
    assert (api.share.tolist(), api.names, api.floor) == ([0.25, 0.75], ("low", "high"), 0.1)
    assert isinstance(api, API)


@pytest.mark.parametrize(
    ("api", "message"),
    [
        ({"members": []}, "two members or more"),
        ({}, "two members or more"),
        ({"members": [{"share": 1}]}, "api.members, 1: kind"),
        ({"members": [{"kind": "tabular", "rounds": 2}]}, "rounds belong to the mixture"),
        ({"members": [{"kind": "tabular", "share": "half"}]}, "share: expected a number"),
        ({"members": [{"kind": "tabular"}, {"kind": "tabular", "colour": 1}]}, "colour"),
        ({"members": MEMBERS, "shares": [1, 1]}, "shares"),
        ({"members": MEMBERS, "weight": 1}, "weight"),
    ],
)
def test_bad_sections(api: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_apis(config(**api), SCHEMA)


def test_paths_of_members_are_relative_to_the_file_and_never_the_private_data(tmp_path: Path) -> None:
    member = {"kind": "nearest", "path": "public.csv"}
    other = {"kind": "tabular", "model": "./tiny", "corpus": ["a.txt", "s3://b/c.txt"], "prompts": {"demos": ["a"]}}
    anchored = config(members=[member, other]).anchored(tmp_path)
    inner = anchored.resolved()["api"][0]["members"]
    assert inner[0]["path"] == str(tmp_path / "public.csv")
    assert inner[1]["model"] == str(tmp_path / "tiny")
    assert inner[1]["corpus"] == [str(tmp_path / "a.txt"), "s3://b/c.txt"]
    assert inner[1]["prompts"]["demos"] == ["a"]
    (tmp_path / "private.csv").write_text("x,kind\n.5,a\n")
    with pytest.raises(ConfigError, match="the private data themselves"):
        pe.synthesize(
            tmp_path / "private.csv",
            schema=SCHEMA,
            api={"kind": "mixture", "members": [{"kind": "tabular"}, member | {"path": str(tmp_path / "private.csv")}]},
            run=tmp_path / "run",
            **BUDGET,
        )


def private(n: int = 400) -> pa.Table:
    rng = np.random.default_rng(1)
    return pa.table({"x": np.clip(rng.normal(0.1, 0.03, n), 0, 1), "kind": rng.choice(["a", "b"], n)})


def synthesize(run: Path, api: object, **keys: object) -> pe.Synthetic:
    settings = {"iterations": 3, "rows": 40, "method": "tab-pe"} | BUDGET | keys
    return pe.synthesize(private(), schema=SCHEMA, source=run.name, api=api, run=run, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("lookahead", [0, 1])
@pytest.mark.usefixtures("repeated_noise")
def test_a_run_moves_to_the_winner_and_resumes_as_it_would_have_gone_on(tmp_path: Path, lookahead: int) -> None:
    api = {"kind": "mixture", "members": MEMBERS, "parents": "own" if lookahead else "any"}
    synthesize(tmp_path / "run", api, lookahead=lookahead)
    stored = sorted(tmp_path.glob("run/iterations/*/population.parquet"))
    before = [file.read_bytes() for file in stored]
    by = [made_by(Population.from_table(pa.parquet.read_table(file), SCHEMA)) for file in stored]
    assert by[0]["high"] > 2 * by[0]["low"]
    assert by[-1]["low"] > 3 * by[-1].get("high", 0)
    for kept in range(1, len(stored)):
        for file in stored[kept:]:
            file.unlink()
        synthesize(tmp_path / "run", api, lookahead=lookahead)
        assert [file.read_bytes() for file in stored] == before


@pytest.mark.usefixtures("repeated_noise")
def test_a_mixture_is_a_stage_of_a_schedule(tmp_path: Path) -> None:
    mixture = {"kind": "mixture", "members": [*MEMBERS, {"kind": "tabular"}]}
    first = synthesize(tmp_path / "1", [mixture | {"rounds": 1}, {"kind": "tabular"}])
    assert set(made_by(first.population)) == {"tabular"}
    second = synthesize(tmp_path / "2", [{"kind": "tabular", "rounds": 1}, mixture])
    assert {"low", "high", "tabular"} >= set(made_by(second.population)) > {"low"}
    assert "mixture of low, high, tabular" in (tmp_path / "2" / "release" / "CARD.md").read_text()


def test_a_member_that_fails_spends_nothing_more(tmp_path: Path) -> None:
    broken = {"kind": f"{__name__}:Broken", "place": 0.5}
    with pytest.raises(APIError, match=r"mixture of .*vary failed: .*out of order.* is spent"):
        synthesize(tmp_path / "run", {"kind": "mixture", "members": [MEMBERS[0], broken]})
    assert not (tmp_path / "run" / "release").exists()


class Broken(Around):
    def vary(self, parents: Population, degree: float, rng: np.random.Generator) -> Population:
        raise RuntimeError("out of order")
