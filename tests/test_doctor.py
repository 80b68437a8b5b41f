import io

import pytest
from rich.console import Console

from hpctrain import doctor
from hpctrain.doctor import NEEDS, Need, examine, package, processor, program


def examined(monkeypatch, needs) -> tuple[int, str]:
    monkeypatch.setattr(doctor, "NEEDS", needs)
    text = io.StringIO()
    code = examine(Console(file=text, width=200))
    return code, text.getvalue()


def test_what_is_missing_comes_with_its_step_and_cure(monkeypatch):
    needs = (
        Need("torch", "train", package("torch"), "pip install torch"),
        Need("unicorn", "firmware", package("no-such-unicorn"), "pip install 'unicorn[horn]'"),
        Need("magic", "nothing", program("no-such-magic"), "none", required=False),
    )
    code, text = examined(monkeypatch, needs)
    assert code == 1
    assert "✗ unicorn is missing for: firmware. pip install 'unicorn[horn]'" in text
    assert "magic is missing" not in text


def test_all_there_is_zero(monkeypatch):
    code, text = examined(monkeypatch, (Need("torch", "train", package("torch"), ""),))
    assert code == 0
    assert "Every step" in text


def test_the_machine_is_described(monkeypatch):
    _, text = examined(monkeypatch, NEEDS)
    assert "cores" in text
    assert "GPU" in text
    assert "Processor: " in text
    assert "bf16 " in text
    for need in NEEDS:
        assert need.name in text


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (
            "knl-quad-flat",
            ["68 cores of 4 hyperthreads", "CPUs 0-271 of 272", "NUMA node 1 is memory alone (16 GiB)"],
        ),
        ("perlmutter-cpu", ["2 socket(s)", "0: 16 cores, 1: 16 cores"]),
        ("laptop-hybrid", ["8 of them are slower cores"]),
        ("container-v2", ["CPUs 2-5 of 8", "a cgroup gives the time of 1.5 CPUs"]),
        ("nothing", ["the kernel does not describe it"]),
    ],
)
def test_the_processor_in_words(machine_named, machine, words):
    said = "\n".join(processor(machine_named(machine)))
    for word in words:
        assert word in said


def test_programs_are_asked_for_their_version(tmp_path):
    assert "g++" in (program("no-such-compiler", "g++")() or "")
    broken = tmp_path / "broken"
    broken.write_text("not a program")
    broken.chmod(0o755)
    assert program(str(broken))() is None
