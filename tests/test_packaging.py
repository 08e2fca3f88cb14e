"""The wheel holds one top-level package, and all of it."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_wheel_has_only_pe_at_its_top_and_every_module_in_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], check=True, capture_output=True, text=True).stdout
    for name in listed.splitlines():
        origin, target = ROOT / name, source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_symlink():
            target.symlink_to(origin.readlink())
        elif origin.exists():
            target.write_bytes(origin.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"pe"}
    expected = {"pe/py.typed"}
    for name in listed.splitlines():
        folder = name.split("/")[0]
        if (
            (name.endswith(".py") or name.startswith("apis/templates/"))
            and folder in ("pe", "apis", "embedders", "flows", "kernels")
            and (ROOT / name).exists()
        ):
            expected.add(name if folder == "pe" else f"pe/{name}")
    assert set(names) == expected


def test_the_kernels_import_from_a_checkout_with_no_installation() -> None:
    command = "from pe.kernels.nearest import nearest; import pe.kernels; print(list(pe.kernels.__path__))"
    subprocess.run([sys.executable, "-S", "-c", "import pe.errors"], cwd=ROOT, check=True)
    subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=True)
