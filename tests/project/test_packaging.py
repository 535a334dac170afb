"""The wheel, the sdist and the editable install hold the same modules as the folders on disk, and all import."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BESIDE = ("codegen", "configs", "costmodel", "partitioner", "runtime")
UNWANTED = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.pyc")


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def must(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


def installed_name(path: Path) -> str:
    """Where a file of the tree is installed: runtime/grid/grid.py is autopar/runtime/grid.py."""
    relative = path.relative_to(ROOT)
    return relative.as_posix() if relative.parts[0] == "autopar" else f"autopar/{relative.as_posix()}"


def modules() -> list[str]:
    """Every module that ships, by its installed name."""
    paths = [installed_name(path) for folder in ("autopar", *BESIDE) for path in (ROOT / folder).rglob("*.py")]
    return sorted(path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in paths)


def data_files() -> set[str]:
    return {installed_name(path) for path in (ROOT / "configs").rglob("*.toml")} | {"autopar/py.typed"}


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's sources alone: building writes into its folder."""
    target = tmp_path_factory.mktemp("sources")
    for name in ("autopar", *BESIDE):
        shutil.copytree(ROOT / name, target / name, ignore=UNWANTED)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target / name)
    return target


@pytest.fixture(scope="module")
def wheel(copied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist, so that both are complete."""
    out = tmp_path_factory.mktemp("dist")
    must(python("-m", "build", "--no-isolation", "--outdir", str(out), str(copied), cwd=out))
    (path,) = out.glob("*.whl")
    return path


def importing(names: list[str], target: Path) -> str:
    """A program that imports `names` with `target` before everything else, and says where each came from."""
    lines = [
        f"import importlib, site, sys; target = {str(target)!r}",
        # This environment's own editable install steps aside.
        "sys.meta_path[:] = [finder for finder in sys.meta_path if 'Editable' not in str(finder)]",
        "for name in [name for name in sys.modules if name.startswith('__editable__')]: del sys.modules[name]",
        # The .pth files of an editable install count only in a site directory.
        "sys.path.insert(0, target); site.addsitedir(target)",
        f"for name in {names!r}: print(name, importlib.import_module(name).__file__)",
    ]
    return "\n".join(lines)


def test_packages_are_the_folders_on_disk():
    with (ROOT / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["tool"]["setuptools"]["packages"]
    found = {Path(name).parent.as_posix().replace("/", ".") for name in map(installed_name, initialisers())}
    assert sorted(listed) == sorted(found)


def initialisers() -> list[Path]:
    return [path for folder in ("autopar", *BESIDE) for path in (ROOT / folder).rglob("__init__.py")]


def test_every_folder_with_code_is_a_package():
    folders = {path.parent for folder in ("autopar", *BESIDE) for path in (ROOT / folder).rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def test_wheel_holds_every_module_and_no_more(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = {installed_name(path) for folder in ("autopar", *BESIDE) for path in (ROOT / folder).rglob("*.py")}
    assert names == sources | data_files()


def test_wheel_imports_from_a_clean_target(wheel: Path, tmp_path: Path):
    """What pip does with a pure wheel is to unpack it."""
    target = tmp_path / "target"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    names = ["autopar", "autopar.errors", *(f"autopar.{name}" for name in BESIDE)]
    text = f"{importing(['autopar', 'autopar.configs'], target)}\n{finding(names, target)}"
    places = must(python("-c", text, cwd=tmp_path)).splitlines()
    assert len(places) == 2 + len(names)
    assert all(line.split(" ", 1)[1].startswith(str(target)) for line in places), places


def test_editable_install_imports_from_the_sources(copied: Path, tmp_path: Path):
    target = tmp_path / "target"
    options = ["-q", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(target)]
    must(python("-m", "pip", "install", *options, "-e", str(copied), cwd=tmp_path))
    found = must(
        python(
            "-c", finding(["autopar", "autopar.errors", *(f"autopar.{name}" for name in BESIDE)], target), cwd=tmp_path
        )
    )
    beside = [f"autopar.{name} {copied / name / '__init__.py'}" for name in BESIDE]
    assert found.splitlines() == [
        f"autopar {copied / 'autopar/__init__.py'}",
        f"autopar.errors {copied / 'autopar/errors.py'}",
        *beside,
    ]


def finding(names: list[str], target: Path) -> str:
    """`importing`, but the modules are only found."""
    imports = importing(names, target)
    return imports.replace("import importlib,", "import importlib.util,").replace(
        "importlib.import_module(name).__file__", "importlib.util.find_spec(name).origin"
    )


@pytest.mark.parametrize("folder", BESIDE)
def test_bare_import_is_refused(folder: str):
    result = python("-c", f"import {folder}", cwd=ROOT)
    assert result.returncode
    assert f"import autopar.{folder}, not {folder}" in result.stderr


def test_every_module_imports_once_in_a_checkout_that_hides_an_installed_autopar():
    """As with `pip install .` and a program that is started in the checkout: no finder knows the folders beside autopar/.

    The first of them is the runtime, which must not import the compiler.
    """
    parts = ("formulation", "microbatches", "placement", "schedules", "solvers")
    compiler = ("capture", "ops", "costmodel", *(f"partitioner.{part}" for part in parts), "codegen", "cli")
    loaded = f"[m for m in sys.modules if m.startswith({tuple(f'autopar.{name}' for name in compiler)})]"
    twice = "files = [m.__file__ for m in list(sys.modules.values()) if getattr(m, '__file__', None)]"
    ours = f"ours = [one for one in files if one.startswith({str(ROOT)!r}) and 'site-packages' not in one]"
    text = f"{importing(['autopar.runtime'], ROOT)}\nassert 'torch' in sys.modules and not {loaded}, {loaded}"
    text += (
        f"\n{importing(modules(), ROOT)}\n{twice}\n{ours}\nassert len(ours) == len(set(ours)) and ours, sorted(ours)"
    )
    places = must(python("-c", text, cwd=ROOT / "tests")).splitlines()
    assert len(places) == 1 + len(modules())
    assert all(line.split(" ", 1)[1].startswith(str(ROOT)) for line in places), places


def test_ranks_load_the_autopar_that_starts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from autopar.jobs import launch

    folder = tmp_path / "autopar"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    assert "-P" in launch.command("autopar.proof.cases", 2)
    assert "-P" not in launch.command(Path("program.py"), 2)
    monkeypatch.chdir(ROOT)
    assert "-P" not in launch.command("autopar.proof.cases", 2)
