"""A module imports only rooms above its own; the list is here, and so are the few exceptions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import metalr

PACKAGE = Path(metalr.__file__).parent

ROOMS = (
    ("metalr.config",),
    ("metalr.tasks", "metalr.control"),  # do not know each other: they meet in training
    ("metalr.training",),
    ("metalr.harvest",),
    ("metalr.learning",),
    ("metalr.comparison",),
    (
        "metalr.integrations",
        "metalr.display",
        "metalr.worker",
        "metalr.provenance",
        "metalr.completion",
        "metalr.exits",
        "metalr.figures",
        "metalr.wandb_send",
        "metalr.wandb_stages",
    ),
    ("metalr.runs", "metalr.wandb_mirror"),
    ("metalr.stages", "metalr.wandb_push", "metalr.dashboard"),
    ("metalr.single_runs",),
    ("metalr.ablations",),
    ("metalr.cli",),
    ("metalr.__main__",),
)
RANK = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}

ALLOWED_UPWARD = {
    # The drop-in scheduler finds the controller that a user names, at construction.
    ("metalr.control.scheduler_checks", "metalr.learning.controller"),
}
"""Late imports, inside a function, that go against the order: (module, what it imports)."""

HEAVY = ("wandb", "matplotlib", "datasets", "torchvision")
"""Never imported at the top of a module: a user of `MetaLR` does not pay for them."""


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str | None:
    """The room a module of ours belongs to; None for other packages and for the package itself."""
    return next((room for room in RANK if module == room or module.startswith(f"{room}.")), None)


def imports_of(tree: ast.AST, when: str = "top") -> Iterator[tuple[str, str]]:
    """Every module imported below `tree`, and when: at the `top`, `late` (in a function), or for `typing`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, when) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            for alias in node.names:
                yield _source(node.module or "", alias.name), when
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports_of(node, "late")
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from imports_of(node, "typing")
        else:
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                yield from ((str(name.value), when) for name in node.args if isinstance(name, ast.Constant))
            yield from imports_of(node, when)


def _source(module: str, name: str) -> str:
    """Where `from module import name` leads; the package's lazy names lead to their homes."""
    if module == "metalr":
        return metalr._HOMES.get(name, f"metalr.{name}")
    return f"{module}.{name}" if f"{module}.{name}" in RANK else module


def violations(module: str, source: str) -> list[str]:
    """The imports of `module` that go against the order, or cost too much where they stand."""
    room = room_of(module)
    found = []
    for imported, when in imports_of(ast.parse(source)):
        if when == "top" and imported.split(".")[0] in HEAVY:
            found.append(f"{module} imports {imported} at its top")
        target = room_of(imported)
        if room is None or target is None or target == room:
            continue
        if RANK[target] >= RANK[room] and not (when == "late" and (module, imported) in ALLOWED_UPWARD):
            found.append(f"{module} imports {imported}, which is not above it")
    return found


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_up_the_list(path: Path) -> None:
    assert violations(module_name(path), path.read_text()) == []


def test_every_exception_is_still_needed() -> None:
    found = {
        (module_name(path), imported)
        for path in MODULES
        for imported, when in imports_of(ast.parse(path.read_text()))
        if when == "late"
    }
    assert found >= ALLOWED_UPWARD


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_every_module_has_a_room(path: Path) -> None:
    assert module_name(path) == "metalr" or room_of(module_name(path)) is not None


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("metalr.control.features", "from metalr.training import train_run"),
        ("metalr.control.features", "from metalr.tasks import make_task"),
        ("metalr.tasks.task", "import metalr.control.scheduler"),
        ("metalr.training.loop", "def f():\n    from metalr.learning.controller import load_controller"),
        ("metalr.training.loop", "if TYPE_CHECKING:\n    from metalr.harvest import plan"),
        ("metalr.config.loading", "from metalr import load_controller"),
        (
            "metalr.harvest.plan",
            "class A:\n    def f(self):\n        import metalr.comparison.report as report",
        ),
        ("metalr.comparison.report", "from metalr import stages"),
        ("metalr.stages", "try:\n    from metalr.cli import app\nexcept ImportError:\n    pass"),
        ("metalr.control.scheduler", "from metalr.learning.controller import load_controller"),
        ("metalr.control.probe", "def f():\n    return import_module('metalr.learning.controller')"),
        ("metalr.training.tracking", "import wandb"),
        ("metalr.tasks.datasets", "from torchvision.datasets import SVHN"),
    ],
)
def test_an_import_against_the_order_is_caught(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("metalr.training.loop", "from metalr.config import run_id\nfrom metalr.tasks.task import Task"),
        (
            "metalr.control.scheduler_checks",
            "def f():\n    from metalr.learning.controller import load_controller",
        ),
        ("metalr.training.tracking", "def f():\n    import wandb"),
        ("metalr.comparison.tables", "if TYPE_CHECKING:\n    import matplotlib"),
        ("metalr.cli", "from metalr import __version__, stages"),
        ("metalr.harvest.plan", "import metalr_other.cli, torch"),
    ],
)
def test_an_import_in_order_is_not(module: str, source: str) -> None:
    assert violations(module, source) == []
