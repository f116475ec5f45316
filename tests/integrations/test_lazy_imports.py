"""No framework is imported before it is used, and a missing one is named with the extra that brings it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import metalr.integrations as integrations

FRAMEWORKS = ("lightning", "transformers", "accelerate", "timm", "skorch", "fastai")


def test_the_room_imports_no_framework_and_not_torch() -> None:
    absent = {*FRAMEWORKS, "torch"}
    code = f"import metalr.integrations, sys; print(*({absent} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_what_needs_no_framework_imports_none() -> None:
    code = (
        "from metalr.integrations import MetaLROnPlateau, WaitingMetaLR, epoch_metrics, keep_with\n"
        f"import sys; print(*(set({FRAMEWORKS}) & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


@pytest.mark.parametrize(
    ("name", "framework", "extra"),
    [
        ("MetaLRCallback", "lightning", "lightning"),
        ("MetaLRTrainerCallback", "transformers", "hf"),
        ("TimmMetaLR", "timm", "timm"),
        ("FastaiMetaLR", "fastai", "fastai"),
    ],
)
def test_a_missing_framework_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, framework: str, extra: str
) -> None:
    monkeypatch.delitem(sys.modules, f"metalr.integrations.{framework}", raising=False)
    for module in [module for module in sys.modules if module.split(".")[0] == framework]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, framework, None)
    with pytest.raises(ImportError, match=rf"^{name} needs {framework}.*: pip install 'metalr\[{extra}\]'$"):
        getattr(integrations, name)


def test_another_name_is_not_there() -> None:
    assert set(integrations.__all__) <= set(dir(integrations))
    with pytest.raises(AttributeError, match="nonsense"):
        integrations.nonsense  # noqa: B018
