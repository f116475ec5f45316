from __future__ import annotations

import json
from pathlib import Path

import pytest

from metalr.config import ConfigError, load_config
from metalr.config.rendering import config_schema, field_doc, show_config
from metalr.config.validation import settings

OVERRIDES = [
    "control.probe=null", "data.dir='/some where/ünï: #x'", "wandb.tags=['1', no, 'a b', '']",
    "train.lr=1e-7", "harvest.mixture=[{task.network: cnn, task.dropout: 0.5}]", "wandb.entity='null'",
]  # fmt: skip


@pytest.mark.parametrize("overrides", [[], OVERRIDES])
def test_what_is_shown_reads_back_as_the_same_configuration(tmp_path: Path, overrides: list[str]) -> None:
    path = tmp_path / "shown.yaml"
    path.write_text(show_config(None, overrides))
    assert load_config(str(path)) == load_config(None, overrides)


def test_each_value_stands_under_its_doc_with_its_source(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("train:\n  epochs: 4\n")
    lines = show_config(str(path), ["workers=0"]).splitlines()
    assert lines[lines.index(f"  epochs: 4  # {path}:2") - 1] == "  # Budget T in epochs."
    assert "workers: 0  # override workers=0" in lines
    assert "  momentum: 0.9  # default" in lines


def test_every_setting_is_documented_and_shown() -> None:
    shown = show_config(None)
    for path in settings():
        assert field_doc(path) or path == ("name",), path
        indent = "  " * (len(path) - 1)
        comment = "# " if path[:-1] == ("train", "early_stopping") else ""  # a section that is null
        assert f"{indent}{comment}{path[-1]}:" in shown, path
    assert field_doc(("train", "nothing")) == ""


def test_show_refuses_what_load_refuses() -> None:
    with pytest.raises(ConfigError, match="must be at least 1"):
        show_config(None, ["train.epochs=0"])


def test_the_schema_knows_sections_bounds_and_extends() -> None:
    schema = json.loads(config_schema())
    assert schema["additionalProperties"] is False
    assert schema["properties"]["extends"]["type"] == "string"
    assert schema["$defs"]["TrainConfig"]["properties"]["epochs"]["minimum"] == 1
    assert "Budget" in schema["$defs"]["TrainConfig"]["properties"]["epochs"]["description"]
