"""The house rules that no linter knows: which way imports point, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A room may import itself and the rooms before it.
ROOMS = (
    {"pe.errors", "pe.files", "pe.permissions", "pe.shield"},
    {"pe.kernels"},
    {"pe.privacy"},
    {"pe.data"},
    {"pe.protocols", "pe.journal"},
    {"pe.private"},
    {"pe.evolution", "pe.tables"},
    {"pe core"},
    {"pe.embedders"},
    {"pe.apis"},
    {"pe.config"},
    {"pe.advice"},
    {"pe.audit.attack", "pe.build", "pe.card", "pe.delivery", "pe.rehearsal", "pe.session", "pe.synthesis"},
    {"pe.evaluation"},
    {"pe.flows"},
    {"pe.cli"},
)


def _room(module: str) -> int:
    name = ".".join(module.split(".")[:2])
    level = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}
    return level.get(name, level["pe core"])


def _modules() -> list[tuple[str, Path]]:
    found = []
    for folder in ("pe", "apis", "embedders", "flows", "kernels"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            relative = path.relative_to(ROOT)
            if folder == "pe" and relative.parts[1] in ("apis", "embedders", "flows", "kernels"):
                continue  # the symlinks
            parts = list(relative.with_suffix("").parts)
            parts = parts if folder == "pe" else ["pe", *parts]
            found.append((".".join(parts).removesuffix(".__init__"), path))
    return found


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize(("module", "path"), _modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_point_one_way(module: str, path: Path) -> None:
    if module == "pe":
        return  # hands out names lazily; its cost is tested below
    for imported in sorted(_imports(path) & {name for name, _ in _modules()} - {"pe"}):
        assert _room(imported) <= _room(module), f"{module} must not import {imported}"


def test_the_kernels_know_only_arrays() -> None:
    """And what computes on them: no file, no network, no process."""
    allowed = {"numpy", "torch", "triton", "numba", "pe", "__future__", "typing", "types", "collections", "functools"}
    allowed |= {"contextlib", "dataclasses", "itertools", "math", "concurrent", "sys", "time", "warnings"}
    for module, path in _modules():
        if module.startswith("pe.kernels."):
            imported = {name.split(".")[0] for name in _imports(path)}
            assert imported <= allowed, f"{module} imports {imported - allowed}"
            assert all(name.startswith("pe.kernels") for name in _imports(path) if name.split(".")[0] == "pe")


def test_the_standalone_verifier_knows_only_the_standard_library_and_nothing_relies_on_it() -> None:
    modules = dict(_modules())
    parts = {name for name in modules if name.startswith("pe.privacy.standalone")}
    imported = set().union(*(_imports(modules[name]) for name in parts))
    assert all(name.startswith("pe.privacy.standalone") for name in imported if name.split(".")[0] == "pe")
    assert {name.split(".")[0] for name in imported} - {"pe"} <= sys.stdlib_module_names
    assert not [module for module, path in modules.items() if module not in parts and parts & _imports(path)]


def test_no_source_folder_has_an_init_file() -> None:
    for folder in ("apis", "embedders", "flows", "kernels"):
        assert not (ROOT / folder / "__init__.py").exists()


HEAVY = (
    "torch",
    "transformers",
    "diffusers",
    "openai",
    "prefect",
    "matplotlib",
    "sklearn",
    "pandas",
    "distributed",
    "ray",
    "fsspec",
)


@pytest.mark.parametrize(
    "command", ["import pe", "import pe; pe.synthesize", "from pe.cli import app; app(['--help'])"]
)
def test_importing_and_asking_for_help_is_light(command: str) -> None:
    script = f"import sys\n{command}\nprint('LOADED', [m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_every_public_name_exists_and_nothing_else_is_promised() -> None:
    import pe

    for name in pe.__all__:
        assert getattr(pe, name) is not None
        assert f"pe.{name}" not in dict(_modules()), f"importing a module pe.{name} would hide the name"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = pe.nonsense


def test_private_records_are_touched_in_few_rooms_and_exact_sums_in_one() -> None:
    """And in the audit, whose data are its own. What is stored of private records is opened in as few."""
    touched: dict[str, set[str]] = {"records": set(), "sums": set()}
    for module, path in _modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Attribute) or (isinstance(node.value, ast.Name) and node.value.id == "self"):
                continue
            if node.attr in ("_records", "_labels", "_users", "_blocks", "_stream") and module != "pe.private.dataset":
                touched["records"].add(module)
            if node.attr == "_count":
                touched["sums"].add(module)
    assert touched == {
        "records": {
            "pe.private.vote",
            "pe.private.measure",
            "pe.private.embedding",
            "pe.private.embeddings",
            "pe.private.shards",
        },
        "sums": {"pe.privacy.release", "pe.audit.attack"},
    }


@pytest.mark.parametrize(
    ("room", "may"),
    [
        ("pe.check", {"pe.synthesis", "pe.cli.check"}),  # no flow, and nothing that stores
        ("pe.private.blocks", {"pe.private.dataset", "pe.private.measure", "pe.private.shards"}),
        (
            "pe.private.cache",
            {
                "pe.private.measure",
                "pe.private.scan",
                "pe.private.shards",
                "pe.private.spill",
                "pe.rehearsal",  # of made-up records
            },
        ),
        (
            "pe.private.embedding",  # the check embeds public records, by the route of private ones
            {"pe.private.embeddings", "pe.private.shards", "pe.private.vote", "pe.embedder_check"},
        ),
        ("pe.private.embeddings", {"pe.private.measure", "pe.private.vote", "pe.session"}),
        (
            "pe.private.scan",
            {
                "pe.private.vote",
                "pe.private.execution",
                "pe.private.worker",
                "pe.private.clusters",
                "pe.flows.shards",
                "pe.rehearsal",  # of made-up records
            },
        ),
        ("pe.private.shards", {"pe.private.embeddings", "pe.private.scan", "pe.private.vote"}),
        ("pe.private.spill", {"pe.private.measure", "pe.private.scan"}),
    ],
)
def test_what_holds_private_records_is_imported_by_few(room: str, may: set[str]) -> None:
    imports = {module for module, path in _modules() if room in _imports(path)}
    assert imports <= may
