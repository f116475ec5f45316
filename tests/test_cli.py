from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import metalr
from metalr.cli import app
from metalr.config import ConfigError

COMMAND = [sys.executable, "-m", "metalr"]


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


class Stages(types.ModuleType):
    """Stands for the modules of the verbs: remembers how it was called, and may raise."""

    def __init__(self) -> None:
        super().__init__("metalr.stages")
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.error: BaseException | None = None
        for name, made in {
            "metadataset": Path("card.json"), "train_meta": [Path("mlp"), Path("lstm")],
            "compare": Path("report.html"), "train": Path("run"), "report": Path("report.html"),
            "lr_find": Path("curve.svg"), "schedules": Path("schedules.svg"), "ablate": Path("ablation.md"),
        }.items():  # fmt: skip
            setattr(self, name, self._stage(name, made))

    def _stage(self, name: str, made: Any) -> Callable[..., Any]:
        def stage(*arguments: Any, **named: Any) -> Any:
            self.calls.append((name, arguments))
            if self.error is not None:
                raise self.error
            return made

        return stage


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stages:
    fake = Stages()
    for name in ("stages", "single_runs", "ablations"):
        monkeypatch.setitem(sys.modules, f"metalr.{name}", fake)
        monkeypatch.setattr(metalr, name, fake, raising=False)
    monkeypatch.chdir(tmp_path)
    return fake


@pytest.mark.parametrize(
    ("verb", "name", "printed"),
    [
        ("metadataset", "metadataset", "card.json\n"),
        ("train-meta", "train_meta", "mlp\nlstm\n"),
        ("compare", "compare", "report.html\n"),
        ("report", "report", "report.html\n"),
    ],
)
def test_each_verb_calls_its_stage_and_prints_what_it_made(
    stages: Stages, verb: str, name: str, printed: str
) -> None:
    result = invoke(verb, "digits", "train.epochs=5")
    assert (result.exit_code, result.stdout, result.stderr) == (0, printed, "")
    ((called, (config, _display)),) = stages.calls
    assert (called, config.train.epochs) == (name, 5)


@pytest.mark.parametrize(
    ("words", "strategy", "epochs"),
    [
        ([], "metalr", 12),
        (["strategy=cosine"], "cosine", 12),
        (["digits", "train.epochs=3", "strategy=one_cycle"], "one_cycle", 3),
    ],
)
def test_train_takes_a_strategy(stages: Stages, words: list[str], strategy: str, epochs: int) -> None:
    assert invoke("train", *words).exit_code == 0
    ((_, (config, _display)),) = stages.calls
    assert (config.strategy, config.train.epochs) == (strategy, epochs)


def test_the_finder_and_the_gallery_are_verbs(stages: Stages) -> None:
    assert invoke("lr-find", "digits", "finder.num_steps=50").stdout == "curve.svg\n"
    words = ["--only", "rex", "--only", "wsd", "--at", "3", "--steps-per-epoch", "5", "--output", "a.svg"]
    assert invoke("schedules", "train.epochs=7", *words).stdout == "schedules.svg\n"
    (found, (config, _)), (drawn, arguments) = stages.calls
    assert (found, config.finder.num_steps) == ("lr_find", 50)
    assert (drawn, arguments[0].train.epochs) == ("schedules", 7)
    assert arguments[1:5] == (["rex", "wsd"], [3], 5, Path("a.svg"))


def test_ablate_takes_two_recipes(stages: Stages) -> None:
    Path("experiments").mkdir()
    Path("experiments/a.yaml").write_text("name: a")
    Path("experiments/b.yaml").write_text("name: b")
    assert invoke("ablate", "a", "b", "train.epochs=2", "--leave-one-out").stdout == "ablation.md\n"
    ((_, (before, after, _)),) = stages.calls
    assert (before.name, after.name, before.train.epochs, after.train.epochs) == ("a", "b", 2, 2)


def test_a_first_word_with_an_equals_sign_is_an_override(stages: Stages) -> None:
    Path("experiments").mkdir()
    Path("experiments/mine.yaml").write_text("train: {epochs: 7}")
    assert invoke("compare", "mine").exit_code == 0
    assert invoke("compare", "train.lr=0.5").exit_code == 0
    assert [arguments[0].train.epochs for _, arguments in stages.calls] == [7, 12]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["compare", "train.lrr=1"], "did you mean train.lr?"),
        (["compare", "cifar"], "recipe 'cifar': no experiments/cifar.yaml here"),
        (["metadataset", "digits", "digits"], "override 'digits': must look like train.epochs=5"),
        (["train", "strategy=cosin"], "did you mean cosine?"),
        (["train", "method=cosine"], "method: unknown key; did you mean strategy?"),
        (
            ["train", "train.depth_groups=[{lr_ratio:0.1}]"],
            "a space is missing after the colon: lr_ratio: 0.1",
        ),
        (["ablate", "digits"], "Missing argument"),
        (["config", "show", "train.epochs=0"], "train.epochs: must be at least 1"),
        (["run-one", "--spec", "nowhere.json", "--store", "runs"], "nowhere.json: no such file"),
        (["compare", "--epochs", "5"], "No such option"),
        (["compair"], "No such command 'compair'"),
    ],
)
def test_wrong_input_is_a_message_and_exit_code_2(stages: Stages, words: list[str], expected: str) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert "Traceback" not in result.output
    assert stages.calls == []


def test_every_mistake_is_a_line_of_its_own(stages: Stages) -> None:
    result = invoke("compare", "train.lrr=1", "train.epochs=0", "task.network=cn")
    assert len(result.stderr.splitlines()) == 3


class OurError(ValueError):
    """As a room of the package would define it."""

    __module__ = "metalr.tasks.images"


class Failure:
    """One run that could not be done, as an executor reports it."""

    def __init__(self, text: str, reason: str) -> None:
        self.text, self.reason = text, reason

    def __str__(self) -> str:
        return self.text


class OurFailure(RuntimeError):
    """A run that could not be done."""

    __module__ = "metalr.harvest.batch"


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (ConfigError(["a: b"]), 2, "a: b"),
        (OurError("no images in x; give data.dir"), 2, "no images in x; give data.dir"),
        (OurFailure("run 12ab failed"), 1, "run 12ab failed"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 2, "runs/x: No space left on device ("),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "my store: No space left on device ("),
        (PermissionError(errno.EACCES, "Permission denied", "runs/x"), 2, "runs/x: Permission denied"),
        (OSError(errno.EROFS, "Read-only file system"), 2, "my store: Read-only file system"),
        (KeyboardInterrupt(), 130, "interrupted: what is finished is kept; run the same command again"),
    ],
)
def test_what_a_user_can_put_right_has_no_traceback(
    stages: Stages, error: BaseException, code: int, expected: str
) -> None:
    stages.error = error
    result = invoke("compare", "store=my store")
    assert result.exit_code == code
    assert expected in result.stderr
    assert "Traceback" not in result.output
    assert len(result.stderr.strip().splitlines()) == 1


def test_runs_that_failed_alike_are_one_message(stages: Stages) -> None:
    error = OurFailure("all of it")
    error.failures = [Failure(f"run {index} failed: lost", "lost") for index in range(40)]  # type: ignore[attr-defined]
    error.failures.append(Failure("run x failed: bug", "bug"))  # type: ignore[attr-defined]
    stages.error = error
    result = invoke("compare")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[:3] == [
        "run 0 failed: lost",
        "(39 more failed alike)",
        "run x failed: bug",
    ]
    assert "run the same command again" in result.stderr


def test_a_store_that_cannot_be_made_is_refused_before_any_work(stages: Stages) -> None:
    Path("file").write_text("")
    for store in ("file", "file/runs"):
        result = invoke("compare", f"store={store}")
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
        assert result.stderr.startswith(f"{store}: ")
    assert stages.calls == []


def test_a_store_that_cannot_be_written_is_refused_but_may_be_read(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # permissions do not bind root, who may run the tests
    assert invoke("compare").stderr == "runs: cannot be written; choose another with store=DIRECTORY\n"
    assert stages.calls == []
    assert invoke("report").exit_code == 0


def test_a_full_disk_names_the_free_bytes(stages: Stages) -> None:
    stages.error = OSError(errno.ENOSPC, "No space left on device")
    assert " bytes free there" in invoke("compare").stderr


@pytest.mark.parametrize(
    "error",
    [ValueError("ours, but a bug"), ZeroDivisionError("bug"), ConnectionResetError("bug"), KeyError("bug")],
)
def test_the_unexpected_keeps_its_traceback(stages: Stages, error: Exception) -> None:
    stages.error = error
    result = invoke("compare")
    assert result.exit_code == 1
    assert result.exception is error


def test_the_shipped_controllers_are_listed_with_what_they_learned_from() -> None:
    result = invoke("controllers", "list")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines] == ["default", "lstm", "mlp"]
    learned_from = "cifar10-small + normalised-small + visited-small + long-budgets + varied-tasks"
    assert all(f"from meta-dataset {learned_from} (" in line for line in lines)


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_an_unexpected_error_prints_a_plain_traceback(tmp_path: Path) -> None:
    code = (
        "import sys, types, metalr; m = types.ModuleType('metalr.stages')\n"
        "sys.modules['metalr.stages'] = metalr.stages = m; m.compare = lambda *_: 1 / 0\n"
        "from metalr.cli import main; sys.argv = ['metalr', 'compare']; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback")
    assert result.stderr.rstrip().endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [(signal.SIGTERM, 143, "terminated: what"), (signal.SIGINT, 130, "interrupted: what")],
)
def test_signals_end_with_their_code_and_one_line(
    tmp_path: Path, number: int, code: int, message: str
) -> None:
    program = (
        "import signal, sys, time, types, metalr; m = types.ModuleType('metalr.stages')\n"
        # a background shell hands the signal on ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def compare(*_):\n"
        "    try:\n        print('ready', flush=True); time.sleep(60)\n"
        "    finally:\n        print('left in order', flush=True)\n"
        "sys.modules['metalr.stages'] = metalr.stages = m; m.compare = compare\n"
        "from metalr.cli import main\nsys.argv = ['metalr', 'compare']; main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    assert stdout == "left in order\n"
    assert message in stderr
    assert "Traceback" not in stderr


def test_help_and_version_come_without_torch() -> None:
    code = (
        "import sys; from metalr.cli import main; sys.argv = ['metalr', *sys.argv[1:]]\n"
        "try: main()\n"
        "except SystemExit as e: print('exit', e.code, 'torch' in sys.modules, 'numpy' in sys.modules)\n"
    )
    for words in (["--help"], ["--version"], ["compare", "--help"], ["config", "show"], ["compare", "x=1"]):
        result = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
        )
        assert result.stdout.splitlines()[-1] in ("exit 0 False False", "exit 2 False False"), result.stderr


def test_help_names_every_verb() -> None:
    shown = invoke("--help").stdout
    for verb in ("metadataset", "train-meta", "compare", "train", "report", "config", "run-one"):
        assert verb in shown
    assert invoke("--version").stdout == f"metalr {metalr.__version__}\n"


def test_config_show_and_schema_print_text_that_reads_back(tmp_path: Path) -> None:
    shown = invoke("config", "show", "workers=0")
    assert shown.exit_code == 0
    assert "workers: 0  # override workers=0" in shown.stdout
    (tmp_path / "again.yaml").write_text(shown.stdout)
    assert invoke("config", "show", str(tmp_path / "again.yaml")).exit_code == 0
    assert '"additionalProperties": false' in invoke("config", "schema").stdout


def test_run_one_refuses_what_is_not_a_spec(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text('{"seed": -1}')
    result = invoke("run-one", "--spec", str(path), "--store", str(tmp_path))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"{path}: not a run's spec (")
    assert "seed: " in result.stderr


def completions(words: str, position: int) -> list[str]:
    result = run(_METALR_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(position))
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.mark.parametrize(
    ("words", "position", "expected"),
    [
        ("metalr com", 1, ["compare"]),
        ("metalr compare dig", 2, ["digits"]),
        ("metalr compare digits train.ep", 3, ["train.epochs="]),
        ("metalr compare digits dig", 3, []),
        ("metalr compare train.dtype = b", 4, ["bfloat16"]),
        ("metalr compare train.dtype =", 3, ["float32", "bfloat16"]),
        ("metalr compare train.nesterov = ", 4, ["true", "false"]),
        (
            "metalr train strategy = metalr",
            4,
            ["metalr-mlp", "metalr-lstm", "metalr-mlp-sf", "metalr-lstm-sf", "metalr"],
        ),
    ],
)
def test_the_shell_completes(words: str, position: int, expected: list[str]) -> None:
    assert completions(words, position) == expected


def test_completion_of_values_where_the_shell_keeps_words_whole() -> None:
    result = run(_METALR_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="metalr compare train.dtype=f")
    assert "train.dtype=float32" in result.stdout


def test_completion_installs_itself(tmp_path: Path) -> None:
    result = run(
        "--install-completion", "bash", HOME=str(tmp_path), _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"
    )
    assert result.returncode == 0, result.stderr
    scripts = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("_METALR_COMPLETE=complete_bash" in script for script in scripts)


def test_no_command_is_there_twice() -> None:
    groups = [app, *(group.typer_instance for group in app.registered_groups)]
    for group in groups:
        names = [command.name or command.callback.__name__ for command in group.registered_commands]
        assert len(names) == len(set(names)) > 0
