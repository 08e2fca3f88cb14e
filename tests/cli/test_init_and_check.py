"""``pe init`` without a public sample and with awkward names; ``pe check``, and the check before a first charge."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pandas as pd
import pytest

import pe
from pe.check import BANNER
from pe.cli import main
from pe.cli.columns import parse_columns
from pe.cli.templates import toml_value
from pe.config import Config
from pe.data.schema import Categorical, Datetime, Numeric, Schema
from pe.errors import ConfigError

SAMPLE = "a,b,kind\n" + "".join(f"{n % 9},{n % 7}.5,{'uv'[n % 2]}\n" for n in range(60))


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert isinstance(exit_.value.code, int)
    return exit_.value.code, captured.out, captured.err


# -- names -------------------------------------------------------------------------------------------------------------

NAMES = (
    'my "final" data',
    "it's",
    "back\\slash",
    "new\nline",
    "tab\tand\x7f\x01control",
    "# no comment",
    "'''\"\"\"",
    "{braces} %s [1] *?",
    "Größe 東京",
    "a = 1",
)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_written_so_that_it_is_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / f"{name}.csv").write_text(SAMPLE)
    folder = tmp_path / "o"
    public = tmp_path / f"{name}.csv"
    code, _, err = call(capsys, "init", folder, "--from-public", public, "--label", "kind", "--data", f"../{name}.csv")
    assert code == 0, err
    config = Config.read(folder / "pe.toml")
    assert config.private.path == str(folder / f"../{name}.csv")
    assert Path(str(config.private.path)).exists()
    assert Schema.read(folder / "schema.toml").column("a") == Numeric("a", 0, 8, integer=True)
    assert call(capsys, "check", folder / "pe.toml")[0] == 0
    named = call(capsys, "init", tmp_path / "p", "--data", "d.csv", "--source", name, "--label", name)
    assert named[0] == 0, named[2]
    private = tomllib.loads((tmp_path / "p" / "pe.toml").read_text())["private"]
    assert (private["source"], private["label"]) == (name, name)


def test_a_name_that_is_not_text_is_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "init", tmp_path, "--data", "d\udcfcrr.csv")
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert "not UTF-8" in err


@pytest.mark.parametrize("value", ["", *NAMES, ["a", 'b"'], 3, 0.5])
def test_values_are_written_in_toml_on_one_line(value: object) -> None:
    written = toml_value(value)
    assert "\n" not in written
    assert tomllib.loads(f"x = {written}")["x"] == value


# -- columns by hand ---------------------------------------------------------------------------------------------------


def test_columns_are_declared_without_a_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "zips.txt").write_text("01067\n80331 \n\n01067\n", encoding="utf-8-sig")
    columns = (
        "age:integer:0:120, price:float:0:999.99:0.01,day:date:2015-01-01:2025-12-31,plan:categorical:basic|pro,"
        f"zip:ordinal:@{tmp_path / 'zips.txt'},id:key,on:boolean,seen:datetime:2024-01-01T00:00:2024-12-31T23:59"
    )
    code, out, err = call(capsys, "init", tmp_path / "o", "--columns", columns, "--label", "plan")
    assert (code, err) == (0, "")
    assert "pe check" in out
    schema = Schema.read(tmp_path / "o" / "schema.toml").with_label("plan")
    assert schema.column("age") == Numeric("age", 0, 120, integer=True)
    assert schema.column("price") == Numeric("price", 0, 999.99, step=0.01)
    assert schema.column("day") == Datetime.of("day", "2015-01-01", "2025-12-31", date=True)
    assert schema.column("zip") == Categorical("zip", ("01067", "80331"), kind="ordinal")
    assert schema.column("seen") == Datetime.of("seen", "2024-01-01T00:00", "2024-12-31T23:59")
    assert "01067" in schema.to_toml()  # what a run stores needs no other file
    assert call(capsys, "plan", tmp_path / "o" / "pe.toml")[0] == 0


def test_what_is_left_out_is_left_to_fill_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "init", tmp_path, "--columns", "age:integer:0,plan:categorical,other")
    assert code == 0
    for gap in ("'age': fill in max", "'plan': fill in values", "'other': fill in type"):
        assert gap in err
    code, _, err = call(capsys, "plan", tmp_path / "pe.toml")
    assert code == 2
    assert "missing key 'max'" in err


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ("a:number", "'a:number'"),
        (":integer", "':integer'"),
        ("a:integer:x:5", "number for 'min' of 'a'"),
        ("a:integer:0:1:2", "NAME:integer:MIN:MAX"),
        ("a,a", "named twice"),
        ("a:datetime:2024-01-01T00:00:12:30", "datetime:MIN:MAX"),
    ],
)
def test_columns_that_mean_nothing_are_refused(columns: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_columns(columns)


CANARY = "ZEBRA-4711"


def test_a_header_gives_names_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    private = tmp_path / "private.csv"
    private.write_text(f'age;"the ""plan""";note\n{CANARY};{CANARY};{CANARY}\n')
    code, out, err = call(capsys, "init", tmp_path / "o", "--header", private, "--columns", "age:integer:0:120")
    assert code == 0, err
    written = tomllib.loads((tmp_path / "o" / "schema.toml").read_text())["columns"]
    assert written == {"age": {"type": "integer", "min": 0, "max": 120}, 'the "plan"': {}, "note": {}}
    assert Config.read(tmp_path / "o" / "pe.toml").private.path == str(private)
    everything = out + err + "".join(path.read_text() for path in (tmp_path / "o").iterdir())
    assert CANARY not in everything


def test_a_first_line_that_is_a_record_is_never_written_or_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private = tmp_path / "private.csv"
    private.write_text(f"{CANARY},1950-03-01,17.5\n{CANARY},1950-03-02,18.5\n")
    code, out, err = call(capsys, "init", tmp_path / "o", "--header", private)
    assert (code, (tmp_path / "o").exists()) == (2, False)
    assert "looks like a record" in err
    assert CANARY not in out + err
    (tmp_path / "p.jsonl").write_text('{"a": 1}\n')
    assert (
        "no header apart from its records" in call(capsys, "init", tmp_path / "o", "--header", tmp_path / "p.jsonl")[2]
    )


def test_gaps_are_asked_for_at_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["integer", "x", "0", "120", "basic|pro"])
    monkeypatch.setattr("pe.cli.init._at_a_terminal", lambda: True)
    monkeypatch.setattr("builtins.input", lambda: next(answers))
    code, _, err = call(capsys, "init", tmp_path, "--columns", "age,plan:categorical")
    assert (code, err) == (0, "")
    schema = Schema.read(tmp_path / "schema.toml")
    assert schema.columns == (Numeric("age", 0, 120, integer=True), Categorical("plan", ("basic", "pro")))


# -- the check ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def misfits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A configuration whose private data hold decimal commas where the schema has numbers, and a canary."""
    (tmp_path / "sample.csv").write_text(SAMPLE)
    lines = [f'{n % 9},"{n % 7},5",{"uv"[n % 2]}\n' for n in range(300)]
    (tmp_path / "private.csv").write_text("a,b,kind\n" + "".join(lines) + f"{CANARY},{CANARY},{CANARY}\n")
    done = call(capsys, "init", tmp_path, "--from-public", tmp_path / "sample.csv", "--label", "kind")
    assert done[0] == 0, done[2]
    return tmp_path / "pe.toml"


def test_the_holder_is_told_which_columns_do_not_fit(misfits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(misfits.parent.rglob("*"))
    code, out, err = call(capsys, "check", misfits)
    assert (code, err) == (0, "")
    assert out.startswith(BANNER)
    assert "column 'b': 301 of 301 (100 %) cannot be read as numbers" in out
    assert "decimal commas" in out
    assert "column 'a'" not in out
    assert "no longer public facts" in out
    assert CANARY not in out
    assert sorted(misfits.parent.rglob("*")) == before
    assert call(capsys, "check", misfits, "--json")[0] != 0  # there is no form for machines


def test_a_run_says_nothing_of_it_unless_at_a_terminal_or_asked(
    misfits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, "synthesize", misfits, "--create")
    assert code == 0, err
    assert "NOT PRIVATE" not in out + err
    code, out, err = call(capsys, "synthesize", misfits, "--check", "--json")
    assert code == 2
    assert "no form for machines" in err


def test_a_check_before_the_first_charge_is_stored_nowhere(misfits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "synthesize", misfits, "--create", "--check")
    assert code == 0, err
    assert "NOT PRIVATE" in err
    assert "NOT PRIVATE" not in out
    run = misfits.parent / "runs" / "private"
    for path in run.rglob("*"):
        assert not path.is_file() or b"301 of 301" not in path.read_bytes()
    assert "NOT PRIVATE" not in call(capsys, "synthesize", misfits, "--check")[2]  # nothing is charged any more


@pytest.mark.parametrize(("answer", "code"), [("\n", 1), ("n\n", 1), ("y\n", 0)])
def test_at_a_terminal_a_run_in_vain_is_asked_about_before_anything_is_spent(
    misfits: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    code: int,
) -> None:
    import io
    import sys

    monkeypatch.setattr("pe.cli.synthesize._at_a_terminal", lambda: True)
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    found, _, err = call(capsys, "synthesize", misfits, "--create")
    assert found == code, err
    assert "column 'b': 301 of 301" in err
    shown = json.loads(call(capsys, "budget", "show", "private", "--json")[1])["sources"]["private"]
    assert bool(shown["charges"]) == (code == 0)


def test_a_check_changes_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0, 50.0] * 100, "kind": ["u", "v", "w"] * 100})
    schema = Schema((Numeric("x", 0, 10), Categorical("kind", ("u", "v"))), "kind")
    results = []
    for number, check in enumerate((False, True)):
        made = pe.synthesize(
            frame,
            schema=schema,
            epsilon=1.0,
            delta=1e-6,
            adjacency="add-remove",
            source="s",
            simulate=1,
            check=check,
            run=tmp_path / str(number),
        )
        results.append(made.to_arrow())
        assert ("NOT PRIVATE" in capsys.readouterr().err) == check
    assert results[0].equals(results[1])
