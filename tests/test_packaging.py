from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import metalr
from metalr.config import ExperimentConfig, load_config

ROOT = Path(metalr.__file__).parent.parent
FORBIDDEN = {
    "machine path": re.compile(r"(?<![\w.~}$-])/(?:root|home|work|Users|mnt|scratch)/\w"),
    "file URL": re.compile(r"file:/{2}"),
    "registry option": re.compile(r"--(?:extra-)?index-url|--find-lin[k]s|--trusted-hos[t]"),
    "registry host": re.compile(r"https?:/{2}[\w.:@-]*(?:pypi|pythonhosted|artifactory|nexus)"),
}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run in the checkout, without what `make test` tells a make inside it."""
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def tracked_files() -> list[Path]:
    """What is, or would be, committed."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def forbidden_in(text: str) -> list[str]:
    return [
        f"{what}: {match.group()}" for what, pattern in FORBIDDEN.items() for match in pattern.finditer(text)
    ]


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_tracked_files_name_no_machine_and_no_registry() -> None:
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {what}" for what in forbidden_in(text)]
    assert found == []


def test_machine_paths_and_registries_would_be_found() -> None:
    slash = "/"
    bad = [
        f"{slash}root{slash}x",
        f"x={slash}home{slash}me",
        f"file:{slash * 3}opt",
        "pip --index" + "-url x",
    ]
    bad += [f"https:{slash * 2}pypi.org{slash}simple"]
    assert all(forbidden_in(text) for text in bad)
    assert forbidden_in("https://arxiv.org/abs/1 ~/work/x runs/home/x $HOME/home/x") == []


def test_nothing_large_or_generated_is_tracked() -> None:
    for path in tracked_files():
        name = path.relative_to(ROOT).as_posix()
        assert not re.search(r"__pycache__|\.egg-info|\.venv|^runs/|^wandb/|\.pt$|\.tmp$", name), name
        assert path.stat().st_size < 5_000_000, f"{name} has {path.stat().st_size:,} bytes"


def test_pyproject_is_the_build_system_and_nothing_else() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert len(text.splitlines()) == 3
    assert set(tomllib.loads(text)) == {"build-system"}


def test_the_pins_satisfy_the_floors() -> None:
    pins = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints-py311.txt").read_text().splitlines()
        if "==" in line
    )
    assert pins["torch"] == "2.12.1"
    assert pins["torchvision"] == "0.27.1"
    options = setup()
    wanted = options["options"]["install_requires"].split()
    wanted += options["options.extras_require"]["dev"].split()
    for requirement in wanted:
        name, _, floor = requirement.lower().partition(">=")
        assert name in pins, f"{name} has no pin"
        number = [int(part) for part in re.findall(r"\d+", floor)]
        assert [int(part) for part in re.findall(r"\d+", pins[name])] >= number, requirement


def test_the_installed_command_is_this_one() -> None:
    (command,) = entry_points(group="console_scripts", name="metalr")
    assert command.value == "metalr.cli:main"
    assert version("metalr") == metalr.__version__


def targets() -> set[str]:
    names = re.findall(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    return {target for line in names for target in line.split()}


def test_bare_make_lists_every_target() -> None:
    shown = run("make")
    assert shown.returncode == 0
    assert {line.split()[0] for line in shown.stdout.splitlines() if re.match(r"  [a-z]", line)} == targets()
    assert {"compare", "metadataset", "train-meta", "train", "report", "test", "check"} <= targets()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (["compare"], 'metalr compare "digits"'),
        (["compare", "RECIPE=my/own.yaml"], 'metalr compare "my/own.yaml"'),
        (["train-meta", "SET=train.epochs=5 workers=0"], '"digits" train.epochs=5 workers=0'),
        (["metadataset", "DATA=a b/c"], "\"data.dir='a b/c'\""),
        (["train", "STRATEGY=cosine"], "strategy=cosine"),
    ],
)
def test_make_passes_its_variables_on(variables: list[str], expected: str) -> None:
    planned = run("make", "--dry-run", "-o", ".venv/.installed", *variables)
    assert expected in planned.stdout, planned.stderr


def test_a_python_that_is_too_old_is_one_clear_line(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    stamp = f"STAMP={tmp_path / 'stamp'}"
    tried = run("make", "install", f"PYTHON={old}", stamp)
    assert tried.returncode == 2
    assert len(tried.stdout.splitlines()) == 1
    assert "Python 3.11 or newer" in tried.stdout


def test_the_ci_script_is_executable_and_ends_with_the_tests() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "make test"
    assert run("bash", "-n", str(script)).returncode == 0


def test_public_names_are_there_and_others_are_not() -> None:
    assert set(metalr.__all__) <= set(dir(metalr))
    assert metalr.load_config is load_config
    assert metalr.ExperimentConfig is ExperimentConfig
    with pytest.raises(AttributeError, match="nonsense"):
        metalr.nonsense  # noqa: B018


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import metalr, metalr.cli, metalr.display", ("torch", "numpy", "wandb", "matplotlib", "datasets")),
        ("import metalr; metalr.load_config()", ("torch", "numpy")),
        (
            "from metalr import MetaLR",
            ("wandb", "matplotlib", "datasets", "torchvision", "pandas", "sklearn"),
        ),
    ],
)
def test_imports_cost_no_more_than_they_must(code: str, absent: tuple[str, ...]) -> None:
    found = run(sys.executable, "-c", f"{code}; import sys; print(*(set({absent}) & set(sys.modules)))")
    assert (found.returncode, found.stdout.strip()) == (0, ""), found.stderr


def test_the_check_on_imports_sees_an_import() -> None:
    found = run(sys.executable, "-c", "import metalr, numpy, sys; print('numpy' in sys.modules)")
    assert found.stdout.strip() == "True"
