"""Packaging: the data, starting without torch, and the order of the packages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from places import ROOT

from steerchat._version import __version__
from steerchat.system import folders

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def python(code: str, **environment: str) -> str:
    """What a fresh Python prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("name", "file"), [("vectors", "happy.toml"), ("tutorials", "README.md")])
def test_a_checkout_finds_its_own_data(name, file):
    assert (folders.packaged(name) / file).is_file()


@pytest.mark.subprocess
def test_an_installed_copy_finds_the_data_inside_it_and_not_a_neighbour(tmp_path):
    package = tmp_path / "site" / "steerchat"
    (package / "_data" / "vectors").mkdir(parents=True)
    (tmp_path / "site" / "vectors").mkdir()  # some other package of that name
    (tmp_path / "site" / "tutorials").mkdir()
    for name in (
        "__init__.py",
        "_version.py",
        "system/threads.py",
        "system/folders.py",
        "system/untrusted.py",
        "values/errors.py",
    ):
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_bytes((ROOT / "steerchat" / name).read_bytes())
    code = """
from steerchat.system import folders
from steerchat.values import errors
print(folders.packaged("vectors"))
try:
    folders.packaged("tutorials")
except errors.SteerchatError as error:
    print(error.message)
"""
    found, complaint = python(code, PYTHONPATH=str(tmp_path / "site"), PYTHONSAFEPATH="1").splitlines()
    assert Path(found) == (package / "_data" / "vectors").resolve()
    assert "tutorials" in complaint


def test_the_version_is_the_same_wherever_it_is_said():
    """In the package, from which the wheel takes it; how to cite it and what changed say it once more."""
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "steerchat/_version.py"
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert cited and newest and cited[1] == newest[1] == __version__


def test_every_folder_of_data_is_packed_into_the_wheel():
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {name: f"steerchat/_data/{name}" for name in ("vectors", "tutorials")}


# Modules of packages that do without torch which need it: to time a model, and to show steering by hand.
WITH_TORCH = (
    "experiments.bench",
    "experiments.chance",
    "experiments.evaluation",
    "experiments.methods",
    "experiments.precision",
    "course.by_hand",
    "course.lab",
    "course.effects",
    "course.states",
)
# Modules of packages with torch that do without it: the chat imports them before a model is asked for.
WITHOUT_TORCH = (
    "engine.processes",
    "models.background",
    "models.default",
    "models.find",
    "models.fingerprint",
    "models.installed",
    "models.memory",
    "concepts.concept",
    "concepts.files",
    "concepts.library",
    "concepts.pages",
    "measures.calibration",
    "measures.chance",
    "measures.format_cost",
    "measures.pair",
    "measures.reader",
    "measures.words",
)


@pytest.mark.subprocess
@pytest.mark.slow
def test_importing_steerchat_loads_neither_torch_nor_rich_nor_the_commands():
    code = """
import sys, steerchat
print(sorted({"torch", "rich", "prompt_toolkit", "steerchat.commands"} & sys.modules.keys()))
import steerchat.api
print(sorted({"torch", "prompt_toolkit", "steerchat.commands"} & sys.modules.keys()))
"""
    assert python(code).splitlines() == ["[]", "[]"]


def test_the_contracts_name_packages_and_few_modules():
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    lists = [name for each in contracts for name in (*each.get("layers", ()), *each.get("allowed_importers", ()))]
    names = {part.removeprefix("steerchat.") for name in lists for part in name.split(" : ")}
    assert len(names) <= 22
    packages = {path.parent.name for path in (ROOT / "steerchat").glob("*/__init__.py")}
    modules = {path.stem for path in (ROOT / "steerchat").glob("*.py")} - {"__init__", "_version"}
    assert {part for name in contracts[0]["layers"] for part in name.split(" : ")} == packages | modules


@pytest.mark.subprocess
@pytest.mark.slow
def test_no_module_of_the_chat_imports_torch_when_it_is_imported():
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    [contract] = [each for each in contracts if "torch" in each.get("protected_modules", ())]
    # The course has two modules with torch, and the rest of it is the chat's. The server begins with an engine.
    folders = [ROOT / name.replace(".", "/") for name in contract["allowed_importers"] if name != "steerchat.course"]
    folders.append(ROOT / "steerchat" / "serve")
    files = [file for file in (ROOT / "steerchat").rglob("*.py") if not any(file.is_relative_to(at) for at in folders)]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    names = [name.removesuffix(".__init__") for name in names if not name.endswith(WITH_TORCH)]
    names += [f"steerchat.{name}" for name in WITHOUT_TORCH]
    assert len(names) > 60
    code = f"""
import importlib, sys
for name in {names!r}:
    importlib.import_module(name)
    heavy = {{"torch", "transformers"}} & sys.modules.keys()
    assert not heavy, (name, heavy)
"""
    python(code)


@pytest.mark.subprocess
@pytest.mark.slow
def test_help_answers_without_torch():
    code = """
import sys
from steerchat.terminal.cli import main
assert main(["--help"]) == 0
assert main(["compare", "--help"]) == 0
print(sorted({"torch", "transformers"} & sys.modules.keys()))
"""
    assert python(code).splitlines()[-1] == "[]"
