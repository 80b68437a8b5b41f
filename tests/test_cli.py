import subprocess
import sys

import pytest

from hpctrain.cli import main
from hpctrain.steps import STEPS


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


@pytest.mark.parametrize("command", ["run", *STEPS, "sweep", "export", "tune", "doctor"])
def test_every_command_explains_itself_with_an_example(capsys, command):
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    assert f"example: hpctrain {command}" in out


def test_the_list_of_commands_is_in_the_order_of_a_run(capsys):
    _, out, _ = call(capsys, "--help")
    positions = [out.index(f"    {name} ") for name in ["run", *STEPS, "doctor"]]
    assert positions == sorted(positions)
    assert "worker" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "configs/nosuch.yaml"], "no configuration file configs/nosuch.yaml"),
        (["run", "configs/demo.yaml", "training.epoch=3"], "unknown key 'epoch'; did you mean 'epochs'?"),
        (["run", "configs/demo.yaml", "task.model.kind=resnet"], "unknown models kind 'resnet'"),
        (["train", "tests"], "tests has no config.yaml"),
        (["train", "tests", "--force", "training.epochs=3"], "tests has no config.yaml"),
        (["run", "x" * 300], "File name too long"),
        (["tune", "configs/demo.yaml", "--minutes", "0"], "a number of minutes above 0, not '0'"),
        (["tune", "configs/nosuch.yaml"], "no configuration file configs/nosuch.yaml"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, arguments, words, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert words in err
    assert len(err.splitlines()) == 1


def test_an_unwritable_place(capsys, request, monkeypatch, tmp_path):
    monkeypatch.chdir(request.config.rootpath)
    (tmp_path / "file").write_text("")
    code, _, err = call(capsys, "run", "configs/demo.yaml", f"output={tmp_path / 'file'}")
    assert code == 2
    assert "cannot write" in err


def test_a_folder_that_is_no_run_is_left_alone(capsys, request, monkeypatch, tmp_path):
    monkeypatch.chdir(request.config.rootpath)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.tex").write_text("precious")
    code, _, err = call(capsys, "run", "configs/demo.yaml", f"output={tmp_path}")
    assert code == 2
    assert "exists and is no run directory" in err
    assert [p.name for p in (tmp_path / "demo").iterdir() if p.name != ".lock"] == ["thesis.tex"]


def test_help_is_quick_and_needs_no_torch():
    program = (
        "import sys; from hpctrain.cli import _parser; _parser().format_help(); print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
