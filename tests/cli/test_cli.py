"""The command, used as a newcomer would, with wrong inputs too."""

import json
from pathlib import Path

import numpy as np
import pytest

from pe.cli import main
from pe.data.schema import Schema
from pe.privacy import standalone

CANARY = "ZEBRA-4711"


class Outcome:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __str__(self) -> str:
        return self.out + self.err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return Outcome(exit_.value.code, captured.out, captured.err)

    return call


@pytest.fixture
def project(tmp_path: Path, run) -> Path:
    """What ``pe init --from-public`` makes of a public sample, and private data with a canary in them."""
    rng = np.random.default_rng(0)
    rows = [
        f"{x},{y:.3f},{k}" for x, y, k in zip(rng.integers(0, 50, 200), rng.random(200), ["u", "v"] * 100, strict=True)
    ]
    (tmp_path / "sample.csv").write_text("\n".join(["age,score,kind", *rows[:100]]) + "\n")
    secret = [f"{CANARY},{CANARY},{CANARY}", f"{CANARY}", "1e999,-5,"]
    (tmp_path / "private.csv").write_text("\n".join(["age,score,kind", *rows, *secret]) + "\n")
    done = run("init", tmp_path, "--from-public", tmp_path / "sample.csv", "--label", "kind", "--data", "private.csv")
    assert done.code == 0, done.err
    config = tmp_path / "pe.toml"
    config.write_text(
        config.read_text().replace("# rows = 1000", "rows = 30 #").replace("# iterations = 10", "iterations = 3 #")
    )
    return tmp_path


def test_from_a_public_sample_to_a_verified_release(project: Path, run) -> None:
    config = project / "pe.toml"
    planned = run("plan", config, "--records", "200")
    assert planned.code == 0
    assert "Reads no" not in planned.out
    assert "200 private records are embedded once" in planned.out
    assert "On this machine, within a factor of 2" in planned.out
    first = run("synthesize", config, "--create", "--json")
    assert first.code == 0, first.err
    facts = json.loads(first.out)
    assert (facts["epsilon"], facts["rows"], facts["iterations"]) == (1.0, 30, {"completed": 3, "planned": 3})
    assert 0.99 < facts["epsilon_spent"] <= 1.0
    assert all(Path(name).exists() for name in facts["files"])
    again = json.loads(run("synthesize", config, "--json").out)
    assert again["epsilon_spent"] == facts["epsilon_spent"]
    assert json.loads(run("resume", facts["run"], "--json").out)["rows"] == 30
    exported = run("export", facts["run"], "--format", "jsonl", "--format", "hf", "--json")
    assert exported.code == 0, exported.err
    verified = run("budget", "verify", facts["certificate"], "--json")
    assert verified.code == 0, verified.err
    assert len(json.loads(verified.out)["checked"]) == 6
    shown = json.loads(run("budget", "show", "private", "--json").out)["sources"]["private"]
    assert [charge["iteration"] for charge in shown["charges"]] == [0, 1, 2, 3]
    for command in (
        ("budget", "show", "private"),
        ("budget", "history", "private"),
        ("budget", "verify", facts["certificate"]),
        ("doctor",),
    ):
        assert run(*command).code == 0
    everything = str(first) + str(verified) + str(exported)
    for path in Path(facts["run"]).rglob("*"):
        if path.is_file():
            everything += path.read_bytes().decode("latin-1")
    assert CANARY not in everything


PRIVACY, EVOLUTION = 'adjacency = "add-remove"', "[evolution]"


def test_a_plan_asks_nothing_of_an_embedder_that_is_costly_unless_told_to(
    project: Path, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pe.embedders.tabular import TabularEmbedder

    config, asked = project / "pe.toml", []
    embed = TabularEmbedder.embed
    monkeypatch.setattr(TabularEmbedder, "costly", True, raising=False)
    monkeypatch.setattr(TabularEmbedder, "embed", lambda self, table: asked.append(table) or embed(self, table))
    assert "--measure tells" in run("plan", config, "--records", "200").out
    assert json.loads(run("plan", config, "--json").out)["work"] is None
    work = json.loads(run("plan", config, "--records", "200", "--json").out)["work"]
    assert (work["records"], work["seconds"], asked) == (200, None, [])
    measured = json.loads(run("plan", config, "--records", "200", "--measure", "--json").out)["work"]
    assert asked
    assert min(measured["seconds"][name] for name in ("embedding", "voting", "kept")) > 0
    assert {name: work[name] for name in work if name != "seconds"} == {
        name: measured[name] for name in measured if name != "seconds"
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (PRIVACY, 'accountant = "renyi:20"\nadjacency = "add-remove"'),
        (PRIVACY, 'adjacency = "replace-one"'),
        (EVOLUTION, "[evolution]\nbudget_weights = { geometric = 4 }"),
        (EVOLUTION, '[evolution]\nbudget_weights = "constant"'),
        (EVOLUTION, "[evolution]\nbudget_weights = [1, 2, 3]\nvote_weights = [1, 0.5, 0.25]"),
    ],
)
def test_every_way_to_spend_the_budget_spends_it_and_verifies(project: Path, run, old: str, new: str) -> None:
    config = project / "pe.toml"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    rounds = json.loads(run("plan", config, "--json").out)["iterations"]
    if "geometric" in new:
        assert rounds[0]["sigma"] == pytest.approx(2 * rounds[2]["sigma"], rel=1e-2)
    done = run("synthesize", config, "--create", "--json")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert 0.99 < facts["epsilon_spent"] <= 1.0
    assert run("budget", "verify", facts["certificate"]).code == 0
    assert standalone.main([facts["certificate"]]) == 0


def test_a_source_may_be_granted_per_user_and_under_another_accountant(run) -> None:
    terms = ("--epsilon", 1, "--delta", 1e-6, "--adjacency", "add-remove", "--unit", "user")
    created = run("budget", "create", "people", *terms, "--accountant", "renyi", "--json")
    assert created.code == 0, created.err
    facts = json.loads(created.out)
    assert (facts["unit"], facts["accountant"], facts["order"]) == ("user", "renyi", "22")
    assert "per user, accountant renyi:22" in run("budget", "show").out
    wrong = run("budget", "create", "others", *terms, "--accountant", "moments")
    assert wrong.code == 2
    assert "expected accountant 'gdp'" in wrong.err


def test_a_second_run_on_a_spent_source_is_refused_until_more_is_granted(project: Path, run) -> None:
    config = project / "pe.toml"
    assert run("synthesize", config, "--create").code == 0
    other = project / "other.toml"
    other.write_text(config.read_text().replace('run = "runs/private"', 'run = "runs/other"'))
    refused = run("synthesize", other)
    assert refused.code == 3
    assert "Nothing was spent" in refused.err
    assert run("budget", "grant", "private", "--epsilon", "0.5").code == 1
    assert run("budget", "grant", "private", "--epsilon", "2").code == 0
    assert run("synthesize", other).code == 0


def another_kind(certificate: dict) -> None:
    """A chain that is whole but says something that no version of this ledger says."""
    from pe.privacy.ledger import entry_hash

    previous = ""
    for row in certificate["entries"]:
        row["kind"] = "refund" if row["number"] == 1 else row["kind"]
        body = {key: value for key, value in row.items() if key not in ("number", "kind", "previous", "hash")}
        row["previous"] = previous
        row["hash"] = previous = entry_hash(previous, certificate["source"], row["number"], row["kind"], body)
    certificate["head"] = previous


def test_a_changed_certificate_or_file_does_not_verify(project: Path, run) -> None:
    assert run("synthesize", project / "pe.toml", "--create").code == 0
    release = project / "runs" / "private" / "release"
    certificate = json.loads((release / "certificate.json").read_text())
    original = (release / "synthetic.csv").read_bytes()
    (release / "synthetic.csv").write_bytes(original + b"1,2,u\n")
    assert "missing or was changed" in run("budget", "verify", release / "certificate.json").err
    (release / "synthetic.csv").write_bytes(original)
    for change, text in (
        (lambda c: c["claim"].update(epsilon=0.5), "claim is not what its release entry"),
        (lambda c: c["entries"][2].update(sigma="1000"), "entry 2 in the certificate was altered"),
        (lambda c: c["entries"].pop(), "head is not the hash"),
        (another_kind, "are missing, or are not those of its release"),
        (lambda c: c["spent"].update(epsilon=0.1), "spent is not what its release entry"),
        (lambda c: c.pop("claim"), "malformed"),
    ):
        changed = json.loads(json.dumps(certificate))
        change(changed)
        (release / "changed.json").write_text(json.dumps(changed))
        outcome = run("budget", "verify", release / "changed.json", "--offline")
        assert (outcome.code, text in outcome.err) == (1, True), outcome.err


def test_the_history_tells_every_entry_in_order(project: Path, run) -> None:
    assert run("synthesize", project / "pe.toml", "--create").code == 0
    assert run("budget", "grant", "private", "--epsilon", 2, "--delta", 1e-5).code == 0
    told = run("budget", "history", "private", "--json")
    facts = json.loads(told.out)
    lines = facts["entries"]
    assert (facts["source"], facts["delta"]) == ("private", 1e-5)
    assert [line["number"] for line in lines] == list(range(12))
    assert [line["kind"] for line in lines] == ["grant", "schema", *["reserve", "draw"] * 4, "release", "grant"]
    assert [line["iteration"] for line in lines[2:10:2]] == [0, 1, 2, 3]
    assert [line["what"] for line in lines[:1] + lines[-1:]] == [
        "grant epsilon 1 at delta 1e-06 (add-remove, per record)",
        "grant epsilon 1 at delta 1e-06 -> 2 at delta 1e-05",
    ]
    spent = [line["epsilon_so_far"] for line in lines]
    assert spent[:2] == [0, 0]
    assert spent[2:10:2] == sorted(set(spent[2:10:2])) == spent[3:10:2]
    shown = json.loads(run("budget", "show", "private", "--json").out)["sources"]["private"]
    assert lines[10]["what"].startswith("release of ")
    assert spent[-1] == spent[-2] == shown["epsilon_spent"]
    assert lines[-1]["hash"] == shown["head"]
    assert all(line["sigma"] > 1 and line["run"] and line["time"] for line in lines[2:10:2])
    printed = run("budget", "history", "private").out
    assert "reserve" not in printed
    assert all(line["hash"][:4] in printed for line in lines)


def test_a_source_keeps_its_schema_until_it_is_amended(project: Path, run) -> None:
    """Refused before the private file, which is gone, is looked for."""
    assert run("synthesize", project / "pe.toml", "--create").code == 0
    assert run("budget", "grant", "private", "--epsilon", 2).code == 0
    other = project / "other.toml"
    other.write_text((project / "pe.toml").read_text().replace('run = "runs/private"', 'run = "runs/other"'))
    schema = project / "schema.toml"
    schema.write_text(schema.read_text().replace("max = ", "max = 9", 1))
    private = (project / "private.csv").rename(project / "away.csv")
    refused = run("synthesize", other)
    assert refused.code == 1
    assert "declared under another schema" in refused.err
    assert "pe budget schema private" in refused.err
    assert "Nothing was spent" in refused.err
    assert len(refused.err.strip().splitlines()) == 1
    private.rename(project / "private.csv")
    amended = run("budget", "schema", "private", schema, "--json")
    assert json.loads(amended.out)["source"] == "private"
    again = json.loads(run("budget", "schema", "private", schema, "--json").out)
    assert again == json.loads(amended.out)  # the same schema twice is one entry
    assert run("synthesize", other).code == 0
    history = json.loads(run("budget", "history", "private", "--json").out)["entries"]
    first, second = (line for line in history if line["kind"] == "schema")
    assert second["what"] == f"schema {first['schema'][:12]} -> {second['schema'][:12]}"
    certificate = project / "runs" / "other" / "release" / "certificate.json"
    assert run("budget", "verify", certificate).code == 0
    assert run("budget", "schema", "unknown", schema).code == 1
    assert "cannot be read" in run("budget", "schema", "private", project / "gone.toml").err


CHANGES = {
    "epsilon 0": ("epsilon = 1.0", "epsilon = 0.0", "expected epsilon > 0 and finite, got 0.0"),
    "epsilon nan": ("epsilon = 1.0", "epsilon = nan", "expected epsilon > 0 and finite, got nan"),
    "epsilon negative": ("epsilon = 1.0", "epsilon = -1.0", "expected epsilon > 0"),
    "epsilon infinite": ("epsilon = 1.0", "epsilon = inf", "expected epsilon > 0"),
    "delta 1": ("delta = 1e-6", "delta = 1.0", "expected delta in"),
    "delta 0": ("delta = 1e-6", "delta = 0.0", "expected delta in"),
    "adjacency": ('"add-remove"', '"both"', "privacy.adjacency"),
    "no adjacency": ('adjacency = "add-remove"', "", "privacy.adjacency: missing key"),
    "unknown key": ("rows = 30", "rows = 30\ncolour = 1", "output.colour: unknown key"),
    "unknown api": ('kind = "tabular"', 'kind = "magic"', "api.kind: expected one of"),
    "api key": ('kind = "tabular"', 'kind = "tabular"\nspeed = 3', "unexpected keyword argument 'speed'"),
    "label": ('label = "kind"', 'label = "nonsense"', "the schema has no column 'nonsense'"),
    "numeric label": ('label = "kind"', 'label = "age"', "must be a categorical column"),
    "missing file": ('path = "private.csv"', 'path = "gone.csv"', "does not exist"),
    "format": ("# formats", 'formats = ["exe"] #', "expected formats among"),
    "image format": ("# formats", 'formats = ["imagefolder"] #', "needs an image column"),
    "degree": ("# seed", "degree = 2.0 #", "expected a degree in [0, 1]"),
    "list length": ("# seed", "degree = [0.1, 0.2] #", "one per iteration (3), got 2"),
    "tiny budget": ("epsilon = 1.0", "epsilon = 1e-9", "Nothing was spent"),
}


@pytest.mark.parametrize(("old", "new", "text"), CHANGES.values(), ids=CHANGES)
def test_a_wrong_setting_is_one_sentence_and_nothing_is_spent(
    project: Path, run, old: str, new: str, text: str
) -> None:
    config = project / "pe.toml"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new, 1))
    outcome = run("synthesize", config, "--create")
    assert outcome.code == 2, outcome
    assert text in outcome.err
    assert "Nothing was spent" in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    shown = run("budget", "show", "--json")
    if shown.code == 0:
        assert all(not facts["charges"] for facts in json.loads(shown.out)["sources"].values())


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "is empty"),
        ("age,age,score,kind\n1,1,1,u\n", "occurs twice"),
        ("age,score\n1,1\n", "no column"),
    ],
)
def test_a_wrong_file_is_one_sentence(project: Path, run, content: str, text: str) -> None:
    (project / "private.csv").write_text(content)
    outcome = run("synthesize", project / "pe.toml", "--create")
    assert outcome.code == 2
    assert text in outcome.err
    assert "Nothing was spent" in outcome.err


def test_an_unknown_source_and_a_folder_that_is_no_run(project: Path, run, tmp_path: Path) -> None:
    missing = run("synthesize", project / "pe.toml")
    assert missing.code == 1
    assert "pe budget create" in missing.err
    assert run("budget", "create", "other", "--epsilon", 1, "--delta", 1e-6, "--adjacency", "add-remove").code == 0
    unknown = run("synthesize", project / "pe.toml")
    assert "source 'private' has no budget" in unknown.err
    assert "is not a run directory" in run("resume", tmp_path).err
    assert "holds no release" in run("export", tmp_path, "--format", "csv").err
    assert run("export", tmp_path).code != 0


def test_a_mistake_in_the_arguments_is_told_on_standard_error(run) -> None:
    outcome = run("synthesise")
    assert outcome.code != 0
    assert "synthesise" in str(outcome)


def test_names_are_printed_as_they_are_not_read_as_markup(run) -> None:
    create = ("budget", "create", "[red]people", "--epsilon", 1, "--delta", 1e-6, "--adjacency", "add-remove")
    assert "[red]people" in run(*create).out
    assert "[red]people" in run("budget", "show").out
    assert "[red]people" in run(*create).err


def test_the_doctor_names_the_extra_to_install(run, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pe-synth[flows]" in run("doctor").out


WANTED = """
label = "kind"
[columns.age]
type = "integer"
bounds = "buy"
within = [0, 200]
[columns.kind]
type = "categorical"
values = "buy"
candidates = ["u", "v", "w"]
"""


@pytest.mark.usefixtures("repeated_noise")
def test_a_schema_is_bought_charged_and_used(project: Path, run) -> None:
    (project / "wanted.toml").write_text(WANTED)
    how = ["--from-private", project / "private.csv", "--schema", project / "wanted.toml", "--source", "people"]
    how += ["--epsilon", "8", "--delta", "1e-6", "--adjacency", "replace-one"]
    assert run("init", project, *how, "--create").code == 2  # schema.toml is there
    assert "no ledger" in run("init", project / "b", *how).err
    assert "--from-private needs --delta" in run("init", project / "b", *how[:8]).err
    done = run("init", project / "b", *how, "--create")
    assert done.code == 0, done.err
    text = (project / "b" / "schema.toml").read_text()
    assert CANARY not in text + str(done)
    schema = Schema.from_toml(text)
    assert schema.labels == ("u", "v", "other")
    shown = json.loads(run("budget", "show", "people", "--json").out)["sources"]["people"]
    assert [charge["purpose"] for charge in shown["charges"]] == ["bounds of age; values of kind"]
    assert shown["charges"][0]["run"]
    assert run("init", project / "c", *how).code == 0  # paid for already
    assert (project / "c" / "schema.toml").read_text() == text
    changed = [*how[:7], "7", *how[8:]]
    assert run("init", project / "d", *changed).code == 3  # the budget is gone
    assert not (project / "d" / "schema.toml").exists()
    assert run("budget", "grant", "people", "--epsilon", "10").code == 0
    config = project / "b" / "pe.toml"
    config.write_text(
        config.read_text().replace("# rows = 1000", "rows = 20 #").replace("# iterations = 10", "iterations = 1 #")
    )
    made = run("synthesize", config, "--json")
    assert made.code == 0, made.err


def test_a_schema_drafted_from_the_private_data_is_warned_of(project: Path, run) -> None:
    public, private = project / "sample.csv", project / "private.csv"
    assert "named as public and as private" not in run("init", project / "a", "--from-public", public).err
    drafted = run("init", project / "b", "--from-public", public, "--data", "../sample.csv")
    assert drafted.code == 0
    assert "named as public and as private" in drafted.err
    assert CANARY not in str(run("init", project / "c", "--from-public", public, "--data", private))
