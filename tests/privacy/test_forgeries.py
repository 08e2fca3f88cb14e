"""A certificate binds what it says: whatever is altered in it, in its chain or in its files, both verifiers refuse.

A forger without the ledger's key can make hashes right again (``bound``); against that stand the issuer's ledger and
the issuer's signature.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pe.errors import CertificateError, ConfigError, LedgerError
from pe.privacy import Adjacency, Budget, DiscreteGaussian, Ledger, signature, standalone
from pe.privacy.certificate import certificate_bytes, digests, draft, issue, read_certificate, verify
from pe.privacy.ledger import releases

from .certificates import GDP, bound, certificate, chained, dumps, renyi
from .test_standalone_refusals import STRANGE, at, leaves

FILES = {"synthetic.csv": b"a,b\n1,x\n", "CARD.md": b"# Card\n", "images/u/0.png": b"\x89PNG"}
BUDGET = Budget(1.0, 1e-6, Adjacency.ADD_REMOVE)


@dataclass
class Issued:
    """A ledger in which "mine" was charged three times, "theirs" once in between, and the release of "mine"."""

    ledger: Ledger
    folder: Path
    certificate: dict[str, Any]

    @property
    def key(self) -> Path:
        return signature.key_paths(self.ledger.key_path)[1]

    def write(self, content: dict[str, Any] | bytes) -> Path:
        path = self.folder / "certificate.json"
        path.write_bytes(content if isinstance(content, bytes) else certificate_bytes(content))
        return path


def charge(ledger: Ledger, run: str, iteration: int, sigma: int = 20) -> None:
    account = ledger.account("people", run=run, budget=BUDGET, config="c")
    mechanism = DiscreteGaussian(Fraction(sigma), Fraction(1))
    account.reserve(mechanism, purpose="votes", iteration=iteration, attempt=f"{run} {iteration}", bins=100)


def drafted(ledger: Ledger, run: str = "mine") -> dict[str, Any]:
    public = ["the schema", "that there are at least 1000 private records"]
    return draft(ledger.chain("people"), run=run, budget=BUDGET, completed=(2, 3), declared_public=public)


def release(ledger: Ledger, run: str = "mine", files: dict[str, bytes] = FILES) -> dict[str, Any]:
    return issue(ledger, drafted(ledger, run), files=digests(files), data={"released.parquet": "0" * 64})


@pytest.fixture
def issued(ledger: Ledger, tmp_path: Path) -> Issued:
    signature.create_key(ledger.key_path)
    ledger.create("people", Budget(2.0, 1e-6, Adjacency.ADD_REMOVE))
    for number, run in enumerate(("mine", "theirs", "mine", "mine")):
        charge(ledger, run, number)
    folder = tmp_path / "release"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return Issued(ledger, folder, release(ledger))


def accepted(path: Path, *, key: Path | None = None, ledger: Ledger | None = None) -> tuple[bool, bool]:
    """Whether pe, and whether the standalone verifier, takes a certificate for good."""
    public = None if key is None else signature.read_public_key(key)
    try:
        ours = bool(verify(read_certificate(path), folder=path.parent, public_key=public, ledger=ledger))
    except (CertificateError, LedgerError):
        ours = False
    arguments = [] if key is None else ["--public-key", str(key)]
    return ours, standalone.main([str(path), *arguments]) == 0


def test_a_good_certificate_is_taken_by_both(issued: Issued, capsys: pytest.CaptureFixture[str]) -> None:
    path = issued.write(issued.certificate)
    assert accepted(path) == accepted(path, key=issued.key, ledger=issued.ledger) == (True, True)
    assert issued.certificate["entries"][-1]["kind"] == "release"
    capsys.readouterr()
    unsigned = issued.write({name: part for name, part in issued.certificate.items() if name != "signature"})
    assert accepted(unsigned) == (True, True)
    assert "unsigned: as far as the issuer's ledger is to be believed" in capsys.readouterr().out
    assert verify(read_certificate(unsigned))[-1] == "unsigned: as far as the issuer's ledger is to be believed"
    assert accepted(unsigned, key=issued.key) == (False, False)


def _without(rows: list[dict[str, Any]], dropped: int) -> list[dict[str, Any]]:
    return chained([row for number, row in enumerate(rows) if number != dropped])


def _changed(rows: list[dict[str, Any]], number: int, **changes: Any) -> list[dict[str, Any]]:
    return chained([row | changes if place == number else row for place, row in enumerate(rows)])


def _swap(made: dict[str, Any], folder: Path) -> None:
    (folder / "synthetic.csv").write_bytes(b"a,b\n2,y\n")
    made["files"]["synthetic.csv"] = sha256(b"a,b\n2,y\n").hexdigest()


def _add(made: dict[str, Any], folder: Path) -> None:
    (folder / "more.csv").write_bytes(b"private")
    made["files"]["more.csv"] = sha256(b"private").hexdigest()


FORGERIES: dict[str, Callable[[dict[str, Any], Path], object]] = {
    "run: another one, which cost less": lambda made, _: made.update(run="theirs"),
    "run: one that was never charged": lambda made, _: made.update(run="nobody"),
    "spent nothing": lambda made, _: made.update(spent={"cost": ["0"], "epsilon": 0.0}),
    "spent a little less": lambda made, _: made["spent"].update(epsilon=made["spent"]["epsilon"] / 2),
    "claim: a thousandth": lambda made, _: made["claim"].update(epsilon=0.001),
    "claim: a smaller delta": lambda made, _: made["claim"].update(delta=1e-9),
    "claim: another adjacency": lambda made, _: made["claim"].update(adjacency="replace-one"),
    "claim: users instead of records": lambda made, _: made["claim"].update(unit="user"),
    "source: another one": lambda made, _: made.update(source="others"),
    "chain: cut before the release": lambda made, _: made["entries"].pop(),
    "chain: cut before the last charge": lambda made, _: made.update(entries=made["entries"][:-2]),
    "chain: the last charge taken out": lambda made, _: made.update(entries=_without(made["entries"], 4)),
    "chain: the other run's charge taken out": lambda made, _: made.update(entries=_without(made["entries"], 2)),
    "chain: a charge named after another run": lambda made, _: made.update(
        entries=_changed(made["entries"], 3, run="theirs")
    ),
    "chain: more noise": lambda made, _: made.update(entries=_changed(made["entries"], 3, sigma="40")),
    "chain: less sensitivity": lambda made, _: made.update(
        entries=_changed(made["entries"], 3, sensitivity_squared="1", cost=["1/10000"])
    ),
    "chain: a larger grant": lambda made, _: made.update(entries=_changed(made["entries"], 0, epsilon=50.0)),
    "chain: the release of another run": lambda made, _: made.update(
        entries=_changed(made["entries"], 5, run="theirs")
    ),
    "files: one swapped, with its digest": _swap,
    "files: one more": _add,
    "files: one less": lambda made, _: made["files"].pop("CARD.md"),
    "files: none": lambda made, _: made.update(files={}),
    "files: one changed": lambda made, folder: (folder / "CARD.md").write_bytes(b"# Other\n"),
    "data: made from something else": lambda made, _: made["data"].update({"released.parquet": "1" * 64}),
    "public: an assumption left out": lambda made, _: made["declared_public"].pop(),
    "limits left out": lambda made, _: made.update(not_covered=[]),
    "groups: protected as well as one": lambda made, _: made["groups"][0].update(epsilon=1.0),
    "iterations: all done": lambda made, _: made["iterations"].update(completed=3),
    "format: an older one": lambda made, _: made.update(format=2),
    "simulated data, claimed": lambda made, _: made.update(simulated=True),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_refused_by_both(issued: Issued, name: str) -> None:
    made = copy.deepcopy(issued.certificate)
    FORGERIES[name](made, issued.folder)
    made["head"] = made["entries"][-1]["hash"]
    assert accepted(issued.write(made)) == (False, False)
    made.pop("signature")
    assert accepted(issued.write(made)) == (False, False)


@pytest.mark.parametrize("name", [name for name in FORGERIES if name != "files: one changed"])
def test_a_forgery_with_right_hashes_is_refused_by_ledger_and_signature(issued: Issued, name: str) -> None:
    made = copy.deepcopy(issued.certificate)
    FORGERIES[name](made, issued.folder)
    rows = made["entries"][:-1] if made["entries"][-1]["kind"] == "release" else made["entries"]
    forged = bound(made, rows)
    assert accepted(issued.write(forged), key=issued.key) == (False, False)
    assert not accepted(issued.write(forged), ledger=issued.ledger)[0]
    signed = forged | {"signature": made["signature"]}  # of the certificate it was made from
    assert accepted(issued.write(signed)) == (False, False)


def test_what_a_rebuilt_forgery_cannot_have_is_said(issued: Issued) -> None:
    """Without ledger and signature a consistent invention cannot be told from a ledger: both say so."""
    made = copy.deepcopy(issued.certificate)
    made["declared_public"] = []
    assert accepted(issued.write(bound(made))) == (True, True)


def test_a_signature_by_another_key_is_refused(issued: Issued, tmp_path: Path) -> None:
    other = Ledger(tmp_path / "other" / "l", key=tmp_path / "other" / "key", create=True)
    place = signature.create_key(other.key_path)
    sign = signature.signer(other.key_path)
    assert sign is not None
    stolen = {name: part for name, part in issued.certificate.items() if name != "signature"}
    path = issued.write(stolen | {"signature": sign(stolen)})
    assert accepted(path) == (True, True)
    assert accepted(path, key=issued.key) == (False, False)
    assert accepted(path, key=place) == (True, True)
    relabelled = sign(stolen) | {"public_key": issued.certificate["signature"]["public_key"]}
    assert accepted(issued.write(stolen | {"signature": relabelled})) == (False, False)


RAW = {
    "a key twice": lambda text: text.replace('"run": "mine"', '"run": "theirs",\n "run": "mine"', 1),
    "nan": lambda text: text.replace('"iterations": {', '"x": NaN, "iterations": {', 1),
    "endless number": lambda text: text.replace('"completed": 2', f'"completed": {"9" * 400}', 1),
    "infinite number": lambda text: text.replace('"completed": 2', '"completed": 1e999', 1),
    "half a surrogate": lambda text: text.replace('"the schema"', '"the schema\\ud800"', 1),
    "cut": lambda text: text[:-20],
    "not utf-8": lambda text: text.encode() + b"\xff",
    "a list": lambda text: f"[{text}]",
    "too deep": lambda text: '{"a":' * 100_000 + "1" + "}" * 100_000,
}


@pytest.mark.parametrize("name", RAW)
def test_what_readers_could_read_differently_is_read_by_neither(issued: Issued, name: str) -> None:
    text = RAW[name](certificate_bytes(issued.certificate).decode())
    path = issued.write(text if isinstance(text, bytes) else text.encode())
    assert accepted(path) == (False, False)


PATHS = [
    "../outside.csv",
    "images/../../outside.csv",
    "images/../CARD.md",
    "./CARD.md",
    "images//u/0.png",
    "/etc/hostname",
    "C:CARD.md",
    "..\\outside.csv",
    "",
    ".",
    "CARD.md\0",
    "link.csv",
    "linked/outside.csv",
    "loop",
    "images",
    "x" * 5000,
]


@pytest.mark.parametrize("name", PATHS)
def test_no_name_leads_out_of_the_folder(issued: Issued, name: str) -> None:
    (issued.folder.parent / "outside.csv").write_bytes(b"x")
    (issued.folder / "link.csv").symlink_to("../outside.csv")
    (issued.folder / "linked").symlink_to("..")
    (issued.folder / "loop").symlink_to("loop")
    digest = sha256(FILES["CARD.md"] if "CARD" in name else b"x").hexdigest()
    made = copy.deepcopy(issued.certificate) | {"files": {name: digest}}
    assert accepted(issued.write(bound(made))) == (False, False)


@given(st.data())
def test_both_verifiers_agree_on_whatever_takes_a_values_place(tmp_path_factory: Any, data: st.DataObject) -> None:
    """Hashes are made right again in half the cases, so that the checks behind them are reached."""
    base = certificate(*data.draw(st.sampled_from([GDP, renyi()])))
    if base["claim"]["accountant"] == "renyi":
        for table in (base["claim"], base["entries"][0], base["spent"]):
            table["epsilon"] = 20.0
        for row in base["entries"][1:-1]:
            row["run_epsilon"] = 20.0
        base = bound(base)
    folder = tmp_path_factory.mktemp("forged")
    (folder / "data.csv").write_bytes(b"x\n1\n")
    path = folder / "certificate.json"
    path.write_text(json.dumps(base))
    assert accepted(path) == (True, True)
    place = data.draw(st.sampled_from(sorted({p[:n] for p in leaves(base) for n in range(1, len(p) + 1)}, key=str)))
    holder, key = at(base, place[:-1]), place[-1]
    how = data.draw(st.sampled_from(["replace", "respell", "delete", "double", "move"]))
    value = holder[key]
    if how == "replace":
        holder[key] = data.draw(st.sampled_from(STRANGE))
    elif how == "respell":
        holder[key] = data.draw(st.sampled_from(_spellings(value)))
    elif how == "delete":
        del holder[key]
    elif how == "double" and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(value))
    else:
        base[data.draw(st.sampled_from(["more", "run", "spent", "format"]))] = value
    if data.draw(st.booleans()):
        with contextlib.suppress(TypeError, ValueError, KeyError, AttributeError, IndexError):
            base = bound(base)
    path.write_text(json.dumps(base))
    ours, theirs = accepted(path)
    assert ours == theirs


def _spellings(value: Any) -> list[Any]:
    """The same value in other words, or nearly."""
    found: list[Any] = [value, [value], {"a": value}, str(value), dumps(value)]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        found += [value * 2, value / 2, -value, value + 1]
        found += [float(value), math.floor(value)] if math.isfinite(value) else []
    if isinstance(value, str):
        found += [value + " ", " " + value, value + "/1", "0" + value, value.upper(), value + "0", "+" + value]
    return found


# -- the ledger's side ---------------------------------------------------------------------------------------------


def test_the_same_release_is_entered_once(issued: Issued) -> None:
    before = len(issued.ledger.chain("people"))
    assert release(issued.ledger) == issued.certificate
    charge(issued.ledger, "theirs", 9)
    assert release(issued.ledger) == issued.certificate  # another run's charges change nothing
    assert len(issued.ledger.chain("people")) == before + 1
    other = release(issued.ledger, files={"synthetic.csv": b"other"})
    assert [row["kind"] for row in other["entries"]][-3:] == ["release", "reserve", "release"]
    assert release(issued.ledger) == issued.certificate  # an older one still holds
    assert len(releases(issued.ledger.chain("people"), "mine")) == 2


def test_a_charge_after_the_release_is_missed_in_the_certificate(issued: Issued) -> None:
    path = issued.write(issued.certificate)
    assert accepted(path, ledger=issued.ledger)[0]
    charge(issued.ledger, "mine", 9)
    with pytest.raises(CertificateError, match="was charged after this certificate was issued"):
        verify(issued.certificate, folder=issued.folder, ledger=issued.ledger)
    renewed = release(issued.ledger)
    assert renewed["head"] != issued.certificate["head"]
    assert accepted(issued.write(renewed), key=issued.key, ledger=issued.ledger) == (True, True)


def test_a_release_is_not_entered_for_what_was_not_charged(issued: Issued) -> None:
    begun = drafted(issued.ledger)
    with pytest.raises(LedgerError, match="was not charged what its release says"):
        issue(issued.ledger, begun | {"run": "nobody"}, files={"a": "0" * 64}, data={"b": "0" * 64})
    charge(issued.ledger, "mine", 9)
    with pytest.raises(LedgerError, match="was charged meanwhile"):
        issue(issued.ledger, begun, files={"a": "0" * 64}, data={"b": "0" * 64})
    with pytest.raises(CertificateError, match="at least one file"):
        issue(issued.ledger, drafted(issued.ledger), files={}, data={"b": "0" * 64})


def test_a_signing_key_that_cannot_be_used_is_an_error_and_never_unsigned(issued: Issued) -> None:
    private, public = signature.key_paths(issued.ledger.key_path)
    assert [oct(path.stat().st_mode & 0o777) for path in (private, public)] == ["0o600", "0o600"]
    before = private.read_bytes()
    assert signature.create_key(issued.ledger.key_path) == public
    assert private.read_bytes() == before  # never replaced
    private.write_text("-----BEGIN PRIVATE KEY-----\n")
    with pytest.raises(LedgerError, match=r"signing key .* cannot be used"):
        release(issued.ledger)
    public.write_text("no key")
    with pytest.raises(ConfigError, match="is no Ed25519 public key"):
        signature.read_public_key(public)
    assert standalone.main([str(issued.write(issued.certificate)), "--public-key", str(public)]) == 2


def test_signatures_agree_with_the_standard() -> None:
    """RFC 8032, section 7.1, tests 2 and 3; every other bit flipped is refused."""
    from pe.privacy.standalone.signature import verified

    vectors = [
        (
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
            "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ]
    for key, message, value in vectors:
        parts = bytes.fromhex(key), bytes.fromhex(message), bytes.fromhex(value)
        assert verified(*parts)
        for index in range(0, 64, 7):
            flipped = bytearray(parts[2])
            flipped[index] ^= 1 << (index % 8)
            assert not verified(parts[0], parts[1], bytes(flipped))
        assert not verified(parts[0], parts[1] + b"x", parts[2])
        larger = (int.from_bytes(parts[2][32:], "little") + 2**252 + 27742317777372353535851937790883648493).to_bytes(
            32, "little"
        )
        assert not verified(parts[0], parts[1], parts[2][:32] + larger)  # one signature, one spelling
