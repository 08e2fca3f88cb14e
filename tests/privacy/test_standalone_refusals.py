"""The second implementation refuses whatever does not add up, and says so in a line."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pe.privacy import standalone
from pe.privacy.standalone import Refused, accounting, program

from .certificates import GDP, TERMS, Outcome, bound, certificate, charge, grant, pld, renyi, votes


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))
    else:
        yield path


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def altered(value: object) -> object:
    return value + "0" if isinstance(value, str) else value + 1  # type: ignore[operator]


def test_no_ledger_field_can_be_altered_removed_or_added(check: Callable[..., Outcome]) -> None:
    base = certificate(*GDP)
    for path in leaves(base["entries"]):
        changed = copy.deepcopy(base)
        holder = at(changed["entries"], path[:-1])
        holder[path[-1]] = altered(holder[path[-1]])
        assert check(changed).code == 1, path
        if isinstance(holder, dict):
            del holder[path[-1]]
            assert check(changed).code == 1, path
    for index in range(len(GDP)):
        changed = copy.deepcopy(base)
        del changed["entries"][index]
        assert check(changed).code == 1
        changed = copy.deepcopy(base)
        changed["entries"][index]["more"] = 1
        assert check(changed).code == 1
        changed["entries"][index] = base["entries"][index] | {"number": float(index)}
        assert check(changed).code == 1


TOP = {
    "format 2": ({"format": 2}, "reads format 3"),
    "format true": ({"format": 3.0}, "format"),
    "another source": ({"source": ""}, "names no source"),
    "another run": ({"run": "r2"}, "not the sum"),
    "no run": ({"run": None}, "no usable run"),
    "simulated": ({"simulated": True}, "this is a simulation: nothing in it is private."),
    "simulated, in other words": ({"simulated": 1}, "this is a simulation: nothing in it is private."),
    "a smaller claim": ({"claim": TERMS | {"epsilon": 0.5}}, "another budget"),
    "a larger claim": ({"claim": TERMS | {"epsilon": 2.0}}, "another budget"),
    "a smaller delta": ({"claim": TERMS | {"delta": 1e-9}}, "another budget"),
    "delta 1": ({"claim": TERMS | {"delta": 1}}, "no usable delta"),
    "delta 0": ({"claim": TERMS | {"delta": 0.0}}, "no usable delta"),
    "delta tiny": ({"claim": TERMS | {"delta": 1e-30}}, "no usable delta"),
    "epsilon 0": ({"claim": TERMS | {"epsilon": 0.0}}, "no usable epsilon"),
    "epsilon negative": ({"claim": TERMS | {"epsilon": -1.0}}, "no usable epsilon"),
    "epsilon a trillion": ({"claim": TERMS | {"epsilon": 1e12}}, "no usable epsilon"),
    "epsilon as true": ({"claim": TERMS | {"epsilon": True}}, "no usable epsilon"),
    "another adjacency": ({"claim": TERMS | {"adjacency": "replace-one"}}, "other neighbours"),
    "another unit": ({"claim": TERMS | {"unit": "user"}}, "other neighbours"),
    "an unknown unit": ({"claim": TERMS | {"unit": "household"}}, "unknown unit"),
    "a list as unit": ({"claim": TERMS | {"unit": []}}, "unknown unit"),
    "another accountant": ({"claim": TERMS | {"accountant": "pld"}}, "changes the accountant"),
    "no claim": ({"claim": None}, "no usable claim"),
    "spent nothing": ({"spent": {"cost": ["0"], "epsilon": 0.9}}, "not the sum"),
    "spent too little": ({"spent": {"epsilon": 0.1}}, "is reported spent"),
    "spent a fraction of nothing": ({"spent": {"cost": ["1/0"], "epsilon": 1.0}}, "no usable cost"),
    "spent minus": ({"spent": {"cost": ["-1"], "epsilon": 1.0}}, "no usable cost"),
    "spent twice": ({"spent": {"cost": ["0", "0"], "epsilon": 1.0}}, "no usable cost"),
    "more done than planned": ({"iterations": {"completed": 4, "planned": 3}}, "iterations"),
    "no files": ({"files": {}}, "names no files"),
    "no data": ({"data": {}}, "names no files, no data"),
    "no digest": ({"files": {"a": "0"}}, "something else than their digests"),
    "no groups": ({"groups": None}, "no usable groups"),
}


@pytest.mark.parametrize(("change", "text"), TOP.values(), ids=TOP)
def test_no_claim_or_figure_can_be_altered(check: Callable[..., Outcome], change: dict[str, Any], text: str) -> None:
    changed = certificate(*GDP)
    if change.get("spent") and "cost" not in change["spent"]:
        change["spent"]["cost"] = changed["spent"]["cost"]
    assert check(changed | change).code == 1
    done = check(bound(changed | change))  # as if the ledger had said so
    assert done.code == 1
    assert text in done.err


EVIDENCE = {
    "another source": ({"source": "others"}, "altered"),
    "another head": ({"head": "0" * 64}, "head"),
    "no entries": ({"entries": []}, "holds no ledger entries"),
    "entries as text": ({"entries": "x"}, "no usable entries"),
    "an entry as text": ({"entries": ["x"]}, "not a table"),
    "files as text": ({"files": "x"}, "no usable files"),
}


@pytest.mark.parametrize(("change", "text"), EVIDENCE.values(), ids=EVIDENCE)
def test_no_evidence_can_be_altered(check: Callable[..., Outcome], change: dict[str, Any], text: str) -> None:
    done = check(certificate(*GDP) | change)
    assert done.code == 1
    assert text in done.err


LOW = str(Fraction(math.floor(Fraction(accounting.discrete_mu(Fraction(20))) ** 2 * 10**12), 10**12))
SAMPLED = {"mechanism": "poisson subsampled gaussian", "noise_multiplier": "4", "sampling_rate": "1/100", "steps": 9}

FORGED = {
    "charged a little less": ((grant(), charge([LOW])), "charged less"),
    "charged as continuous noise": ((grant(), charge(["1/400"])), "charged less"),
    "charged half the sensitivity": ((grant(), votes() | {"sensitivity_squared": "2"}), "charged less"),
    "past the grant": ((grant(), *[votes("10")] * 6), "ledger entry 6 takes the source past the epsilon 1"),
    "past the grant by another run": ((grant(), *[votes("10", run="r2")] * 6), "ledger entry 6 takes"),
    "past the grant by one user's records": ((grant(unit="user"), votes("20", 64)), "past the epsilon"),
    "past the claim, within the grant": ((grant(epsilon=9.0), *[votes("10")] * 6), "charged more than the claimed"),
    "a grant below the spending": ((grant(), votes("10"), grant(epsilon=0.1)), "entry 2 takes the source past"),
    "a charge before the raise": ((grant(epsilon=0.1), votes("10"), grant()), "entry 1 takes the source past"),
    "a charge before the grant": ((votes(), grant()), "entry 0 is no grant"),
    "a schema before the grant": (({"kind": "schema"}, grant(), votes()), "entry 0 is no grant"),
    "a schema that costs": ((grant(), {"kind": "schema", "cost": ["1"]}), "of a kind"),
    "a refund": ((grant(), votes(), {"kind": "refund", "cost": ["1"]}), "of a kind"),
    "no kind": ((grant(), {"kind": None}), "of a kind"),
    "a kind that is a table": ((grant(), {"kind": {"a": []}}), "of a kind"),
    "negative cost": ((grant(), charge(["-1/400"])), "no usable cost"),
    "infinite cost": ((grant(), charge(["inf"])), "no usable cost"),
    "exponent": ((grant(), charge(["1e999999999"])), "no usable cost"),
    "no cost": ((grant(), charge([])), "no usable cost"),
    "two costs": ((grant(), charge(["1/300", "0"])), "no usable cost"),
    "sigma zero": ((grant(), charge(["1/300"], sigma="0")), "no usable sigma"),
    "sigma huge": ((grant(), charge(["1/300"], sigma="9" * 50)), "no usable sigma"),
    "sigma nan": ((grant(), charge(["1/300"], sigma="nan")), "no usable sigma"),
    "sigma in other digits": ((grant(), charge(["1/300"], sigma="\u0662\u0660")), "no usable sigma"),
    "sigma endless": ((grant(), charge(["1/300"], sigma="1" * 9999)), "no usable sigma"),
    "sensitivity zero": ((grant(), charge(["1/300"], sensitivity_squared="0")), "no usable sensitivity_squared"),
    "sensitivity below one vote": ((grant(), charge(["1/300"], sensitivity_squared="1/2")), "sensitivity_squared"),
    "grid zero": ((grant(), votes(grid=0)), "no usable grid"),
    "unknown mechanism": ((grant(), charge(["1"], mechanism="laplace")), "does not know: 'laplace'"),
    "a mechanism that is a list": ((grant(), charge(["1"], mechanism=["x"])), "does not know"),
    "sampled noise under gdp": ((grant(), charge(["1/300"], **SAMPLED)), "does not know"),
    "a plan in a plan": (
        (grant(), charge(["1"], mechanism="plan", mechanisms=[{"mechanism": "plan", "mechanisms": [votes()]}])),
        "does not know: 'plan'",
    ),
    "an empty plan": ((grant(), charge(["1"], mechanism="plan", mechanisms=[])), "plan without mechanisms"),
    "a cheap plan": (
        (grant(), charge(["1/300"], mechanism="plan", mechanisms=[votes(), votes()])),
        "charged less",
    ),
    "the accountant changes": ((grant(), votes(), grant(accountant="renyi", order="2")), "changes the accountant"),
    "the order changes": ((*renyi()[:2], grant(accountant="renyi", order="17")), "changes the accountant"),
    "the adjacency changes": ((grant(), grant(adjacency="replace-one"), votes()), "other neighbours"),
    "an unknown accountant": ((grant(accountant="zcdp"), votes()), "unknown accountant"),
    "order 1": ((grant(accountant="renyi", order="1"), votes()), "no usable order"),
    "no order": ((grant(accountant="renyi"), votes()), "no usable order"),
    "a broken order": ((grant(accountant="renyi", order="5/2"), charge(["1/9"], **SAMPLED)), "no usable order"),
    "sampled, replace-one": (
        (grant(accountant="renyi", order="8", adjacency="replace-one"), charge(["1/9"], **SAMPLED)),
        "add-remove adjacency alone",
    ),
    "renyi charged less": (
        (grant(accountant="renyi", order="16"), charge(["16/801"], sigma="20")),
        "charged less",
    ),
    "sampled charged less": ((grant(accountant="renyi", order="16"), charge(["1/9999"], **SAMPLED)), "charged less"),
    "sampled never": ((grant(accountant="pld"), charge(["1", "0"], **SAMPLED | {"sampling_rate": "0"})), "rate"),
    "sampled always more": ((grant(accountant="pld"), charge(["1", "0"], **SAMPLED | {"steps": 0})), "no usable steps"),
    "another run budget": ((grant(), votes(run_epsilon=4.0)), "another budget than the claimed"),
    "a charge of a simulation": ((grant(), votes(simulated=True)), "this is a simulation"),
    "no run": ((grant(), votes(run=None)), "no usable run"),
    "grant of nan": ((grant(epsilon="nan"), votes()), "no usable epsilon"),
    "order past all bounds": ((grant(accountant="renyi", order="99999"), votes()), "no usable order"),
    "too many scales": ((grant(epsilon=1e6), *[charge(["1"], sigma=f"{5000 - k}") for k in range(9)]), "noise scales"),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "text"), FORGED.values(), ids=FORGED)
def test_a_chain_forged_with_right_hashes_must_still_add_up(
    check: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, rows: tuple[dict[str, Any], ...], text: str
) -> None:
    monkeypatch.setattr(program, "MOST_WORK", 2**18)  # so that the test of it is quick
    first = next(row for row in rows if row["kind"] == "grant")
    claim = TERMS | {key: first[key] for key in ("adjacency", "unit", "accountant", "order") if key in first}
    paid = [] if any(row["kind"] == "reserve" and row["run"] == "r1" for row in rows) else [votes()]
    done = check(bound(certificate(grant(), votes()) | {"claim": claim}, [*rows, *paid]))
    assert done.code == 1
    assert text in done.err


def test_the_charge_of_exactly_the_recomputed_cost_is_enough(check: Callable[..., Outcome]) -> None:
    exact = Fraction(math.ceil(Fraction(accounting.discrete_mu(Fraction(20))) ** 2 * 10**30), 10**30)
    assert check(certificate(grant(), charge([str(exact)]))).code == 0
    rdp = [grant(accountant="renyi", order="3"), charge([str(Fraction(3, 800))])]
    made = certificate(*rdp)
    made["spent"]["epsilon"] = 20.0
    assert "past the epsilon" in check(bound(made)).err  # order 3 costs more than epsilon 1 to convert at delta 1e-6
    rdp = [grant(accountant="renyi", order="3", epsilon=9.0), charge([str(Fraction(3, 800))], run_epsilon=9.0)]
    made = certificate(*rdp)
    made["claim"]["epsilon"] = made["spent"]["epsilon"] = 9.0
    assert check(bound(made)).code == 0


FILES = {
    "up": "../outside.txt",
    "up in the middle": "a/../../outside.txt",
    "absolute": "/etc/passwd",
    "empty": "",
    "itself": ".",
    "drive": "C:outside.txt",
    "backslash": "..\\outside.txt",
    "link": "link.txt",
    "linked folder": "linked/outside.txt",
    "loop": "loop/x",
    "null": "a\0b",
    "long": "x" * 5000,
    "surrogate": "\ud800",
    "missing": "none.csv",
    "folder": "folder",
    "pipe": "pipe",
}


@pytest.mark.parametrize("name", FILES.values(), ids=FILES)
def test_files_are_looked_for_inside_the_folder_alone(tmp_path: Path, check: Callable[..., Outcome], name: str) -> None:
    folder = tmp_path / "release"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "outside.txt").write_bytes(b"x")
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    done = check(certificate(*GDP, files={name: sha256(b"x").hexdigest()}), folder=folder)
    assert done.code == (2 if name == "\ud800" else 1)
    assert ("released file" if done.code == 1 else "is not JSON") in done.err


def test_a_changed_file_is_noticed_and_an_uncovered_one_listed(tmp_path: Path, check: Callable[..., Outcome]) -> None:
    folder = tmp_path / "release"
    (folder / "images").mkdir(parents=True)
    names = {"images/1.png": b"one", "a.csv": b"two"}
    for name, content in names.items():
        (folder / name).write_bytes(content)
    made = certificate(*GDP, files={name: sha256(content).hexdigest() for name, content in names.items()})
    done = check(made, folder=folder)
    assert (done.code, "not covered" in done.out) == (0, False)
    assert "digests of 2 released files" in done.out
    (folder / "images" / "other\x1b[2J\n.png").write_bytes(b"")
    (folder / "linked").symlink_to(tmp_path)
    done = check(made, folder=folder)
    assert "2 other files in the folder: 'images/other\\x1b[2J\\n.png', 'linked'" in done.out
    (folder / "a.csv").write_bytes(b"twO")
    assert "'a.csv' is missing or was changed" in check(made, folder=folder).err


UNREADABLE = {
    "empty": b"",
    "text": b"certificate",
    "not utf-8": b"\xff\xfe{}",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "deep and closed": b'{"claim":' * 50_000 + b"0" + b"}" * 50_000,
    "nan": b'{"format": NaN}',
    "infinity": b'{"format": -Infinity}',
    "too large": b'{"format": 1e999}',
    "endless": b'{"format": ' + b"9" * 100_000 + b"}",
    "a key twice": b'{"format": 1, "format": 2}',
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_certificate_is_said_to_be_none(check: Callable[..., Outcome], content: bytes) -> None:
    done = check(content)
    assert done.code == 2
    assert "certificate.json' is not " in done.err
    assert json.loads(check(content, "--json").out)["valid"] is False


STRANGE = [
    None,
    True,
    -1,
    10**299,
    1e308,
    5e-324,
    0.5,
    "",
    "nan",
    "1/0",
    "9" * 4000,
    "1/" + "9" * 4000,
    "\ud800",
    [],
    {},
    [[]],
    {"a": 1},
]


@given(st.data())
def test_nothing_that_parses_gets_past_the_checks_of_types_and_ranges(data: st.DataObject) -> None:
    """Whatever takes a value's place, with hashes made right again, is refused by a sentence of its own."""
    base = certificate(*data.draw(st.sampled_from([GDP, renyi(), pld()])))
    rows = [path for path in leaves(base) if path[0] not in ("declared_public", "versions", "not_covered", "head")]
    prefixes = sorted({path[:n] for path in rows for n in range(1, len(path) + 1)}, key=str)
    path = data.draw(st.sampled_from(prefixes))
    at(base, path[:-1])[path[-1]] = data.draw(st.sampled_from(STRANGE))
    with contextlib.suppress(TypeError, ValueError, KeyError, AttributeError, IndexError):
        base = bound(base)
    with contextlib.suppress(Refused, UnicodeEncodeError):
        standalone.Verifier(base).check()
