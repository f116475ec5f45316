"""Each example runs as a user runs it: a script, with the shipped controller."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import metalr

EXAMPLES = Path(__file__).parent.parent.parent / "experiments" / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "problem.py")


def has_shipped_controller() -> bool:
    try:
        metalr.load_controller("default")
    except ValueError:
        return False
    return True


def test_every_framework_has_an_example() -> None:
    frameworks = ("accelerate", "fastai", "lightning", "skorch", "timm", "transformers")
    assert {f"with_{name}.py" for name in frameworks} <= set(SCRIPTS)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("script", SCRIPTS)
def test_it_runs(script: str) -> None:
    if not has_shipped_controller():
        pytest.skip("no controller is shipped with this version")
    framework = Path(script).stem.removeprefix("with_")
    if script.startswith("with_") and find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    ran = subprocess.run([sys.executable, EXAMPLES / script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "LR by epoch: " in ran.stdout
    assert "peak decided after epoch 6" in ran.stdout
