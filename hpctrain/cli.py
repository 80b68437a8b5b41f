"""The command line: one thin command a step."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

import hpctrain
from hpctrain import data_commands, data_options, stopping
from hpctrain.errors import InternalError, Stopped, UserError
from hpctrain.files import as_user_error
from hpctrain.launch.binding import Seat
from hpctrain.registry import nearest
from hpctrain.sweep import command as sweep_command

_TARGET = "an experiment (YAML file) or a run directory"

_STEPS = {
    "generate": (
        "Generate events and write them as shards (data/).",
        "hpctrain generate configs/demo.yaml generate.workers=8",
    ),
    "train": (
        "Train on the ranks of launch; an interrupted training goes on from its last checkpoint (checkpoints/).",
        "hpctrain train runs/demo launch.ranks=4",
    ),
    "evaluate": (
        "Measure the best checkpoint and its baselines on held-out events (evaluation/).",
        "hpctrain evaluate runs/demo evaluate.bootstrap=1000 --force",
    ),
    "compress": (
        "Prune the trained network and train it on in fixed point (compressed/).",
        "hpctrain compress runs/demo compress.weight_bits=6 --force",
    ),
    "firmware": (
        "Emit a firmware project, if its emulation is the quantised network (firmware/).",
        "hpctrain firmware runs/demo firmware.reuse_factor=8",
    ),
    "report": (
        "Write the page of the run from whatever steps are finished (report.html).",
        "hpctrain report runs/demo",
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. A user's mistake ends in one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an old terminal shows ? for φ, and goes on
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = argparse.Namespace(command=None)
    try:
        options = _parse(words)
        code = _dispatch(options)
        sys.stdout.flush()
    except UserError as error:
        code = _say(error)
    except Stopped as stopped:
        print(f"hpctrain: {stopped}", file=sys.stderr)
        code = stopping.GO_ON_LATER
    except BrokenPipeError:  # whoever reads our output (head, less) has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141  # as a program stopped by SIGPIPE
    except OSError as error:
        code = _say(as_user_error(error, Path(error.filename or getattr(options, "target", "."))))
    except KeyboardInterrupt:
        whole = "what was being written is gone" if options.command == "data" else (
            "the same command (without --force) goes on from what is whole"
        )  # fmt: skip
        print(f"\nhpctrain: interrupted; {whole}", file=sys.stderr)
        code = 130
    sys.exit(code)


class _Parser(argparse.ArgumentParser):
    """Its mistakes are told as all others are."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message, hint=f"See `{self.prog} --help`")


def _parse(words: list[str]) -> argparse.Namespace:
    commands = [word for word in words if not word.startswith("-")]
    known = ["run", *_STEPS, "sweep", "lr-find", "tune", "export", "data", "doctor"]
    if commands and commands[0] not in [*known, "worker"]:
        raise UserError(f"unknown command {commands[0]!r}", hint=nearest(commands[0], known, "commands are"))
    if commands[:1] == ["data"]:
        data_commands.did_you_mean(commands[1:])
    parser = _parser()
    options, leftover = parser.parse_known_args(words)
    # argparse takes overrides in one piece only; those after an option are left over.
    if any(item.startswith("-") or "=" not in item for item in leftover) or not hasattr(options, "overrides"):
        return parser.parse_args(words)
    options.overrides += leftover
    return options


def _say(error: UserError) -> int:
    print(f"hpctrain: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1 if isinstance(error, InternalError) else 2


def _dispatch(options: argparse.Namespace) -> int:
    if options.command == "worker":
        stopping.listen()
        seat = Seat(os.environ)
        from hpctrain.worker import work  # and torch with it

        seat.loaded()
        work(options.step, options.run, seat.line, profile=options.profile)
        return 0
    if options.command == "data":
        return data_commands.perform(options)
    if options.command == "sweep":
        return _sweep(options)
    if options.command == "export":
        return _export(options)
    if options.command == "lr-find":
        return _lr_find(options)
    if options.command == "tune":
        return _tune(options)
    if options.command == "doctor":
        from hpctrain.doctor import examine

        return examine(Console())
    return _do_steps(options)


def _do_steps(options: argparse.Namespace) -> int:
    from hpctrain.config import Experiment
    from hpctrain.display import Terminal
    from hpctrain.pipeline import perform
    from hpctrain.run import RunDirectory
    from hpctrain.steps import STEPS, open_run

    target: Path = options.target
    source = RunDirectory.open(target).config_path if target.is_dir() else target
    experiment = Experiment.load(source, options.overrides)
    path = experiment.output / experiment.name
    if target.is_dir() and not any(o.startswith(("name=", "output=")) for o in options.overrides):
        path = target  # which may have been moved since it was made
    names = list(STEPS) if options.command == "run" else [options.command]
    console = Console(soft_wrap=True)
    with stopping.Warned() as warned, RunDirectory(path).lock():
        run = open_run(path, experiment, names, force=options.force)
        run.profile = getattr(options, "profile", False)
        with Terminal(console) as display:
            perform(
                run, names, experiment.launch.build(), display,
                force=options.force, max_restarts=getattr(options, "max_restarts", 0), warned=warned,
            )  # fmt: skip
    if run.report_path.exists() and names[-1] == "report":
        console.print(
            f"\nReport:  {run.report_path}\nSummary: {run.summary_path}", highlight=False, markup=False
        )
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from hpctrain.display import Terminal

    # Where there is no terminal nobody knows the width: tables in files and pipes are not folded for a narrow one.
    console = Console(width=None if sys.stdout.isatty() else 160)
    with stopping.Warned() as warned, Terminal(console) as display:
        return sweep_command.perform(options, console, display, warned)


def _export(options: argparse.Namespace) -> int:
    from hpctrain.run import RunDirectory
    from hpctrain.training.export import export_onnx, export_weights

    run = RunDirectory.open(options.target)
    if options.format == "onnx":
        path, parity = export_onnx(run, options.output, options.checkpoint)
        print(f"onnxruntime as torch: {parity}", file=sys.stderr)
    else:
        path = export_weights(run, options.output, options.checkpoint)
    print(path)
    return 0


def _lr_find(options: argparse.Namespace) -> int:
    from hpctrain.run import RunDirectory
    from hpctrain.training.lr_finder import find

    run = RunDirectory.open(options.target)
    with run.lock():
        trial = find(run, low=options.low, high=options.high, steps=options.steps)
    print(f"loss falls fastest at {trial.steepest:.2g}, is least at {trial.at_lowest:.2g}: lr_finder.png")
    print(f"try: hpctrain train {run.path} training.optimizer.learning_rate={trial.suggested:.2g}")
    return 0


def _tune(options: argparse.Namespace) -> int:
    from hpctrain.tuning.command import Tuning

    Tuning(options.target, options.overrides, Console(soft_wrap=True)).perform(
        minutes=options.minutes, dry_run=options.dry_run, allow_precision=options.allow_precision
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hpctrain",
        description=hpctrain.__doc__,
        epilog="example: hpctrain run configs/demo.yaml\nEvery command: hpctrain COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hpctrain {hpctrain.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    _add_steps(
        commands, "run", "Do every step that is not done yet, from events to the report.",
        "hpctrain run configs/demo.yaml name=second training.epochs=20",
    )  # fmt: skip
    for name, (text, example) in _STEPS.items():
        _add_steps(commands, name, text, example)
    sweep_command.add(commands, _count)
    _add_lr_find(commands)
    _add_tune(commands)
    _add_export(commands)
    data_options.add(commands)
    commands.add_parser(
        "doctor",
        help="Say what this machine has and what is missing for which step.",
        description="Say what this machine has and what is missing for which step, with the cure. Exit code 0 when "
        "every step of a run can be done here, 1 otherwise.",
        epilog="example: hpctrain doctor",
    )
    worker = commands.add_parser("worker")  # started by the launcher; no help: not for people
    worker.add_argument("step")
    worker.add_argument("run", type=Path)
    worker.add_argument("--profile", action="store_true")
    return parser


def _add_steps(commands: "argparse._SubParsersAction[Any]", name: str, text: str, example: str) -> None:
    command = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"example: {example}\n\nThe keys are listed in docs/configuration.md. A step that is finished with the "
        "same inputs is not done again.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("target", type=Path, help=_TARGET)
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key.sub=value", help="change a key of the configuration"
    )
    command.add_argument(
        "--force", action="store_true", help="do it again, even when it is done with the same inputs"
    )
    if name in {"run", "train"}:
        command.add_argument(
            "--max-restarts", type=_count, default=0, metavar="N",
            help="go on by itself so many times when a rank is killed or hangs (never after a mistake of yours)",
        )  # fmt: skip
        command.add_argument(
            "--profile",
            action="store_true",
            help="write a trace of a few training steps into RUN/profile (docs/insight.md)",
        )


def _add_lr_find(commands: "argparse._SubParsersAction[Any]") -> None:
    text = "Try rising learning rates on a run's data and network, for a good one (lr_finder.png); the run stays as it is."
    example = "hpctrain lr-find runs/demo"
    finder = commands.add_parser("lr-find", help=text, description=text, epilog=f"example: {example}")
    finder.add_argument("target", type=Path, help="a run directory whose events are there")
    finder.add_argument("--low", type=float, default=1e-6, help="first learning rate (default: 1e-6)")
    finder.add_argument("--high", type=float, default=10.0, help="last one (default: 10)")
    finder.add_argument("--steps", type=_count, default=200, help="most steps to make (default: 200)")


def _add_export(commands: "argparse._SubParsersAction[Any]") -> None:
    text = "Write the network of a trained run for other programs: its weights, or the whole of it as ONNX."
    example = "hpctrain export runs/demo --format onnx"
    export = commands.add_parser("export", help=text, description=text, epilog=f"example: {example}")
    export.add_argument("target", type=Path, help="a run directory")
    export.add_argument(
        "--format",
        choices=["safetensors", "onnx"],
        default="safetensors",
        help="safetensors: the weights alone; onnx: the network with the scaling of its inputs, compared with torch on held-out "
        "events (needs the extra onnx)",
    )
    export.add_argument(
        "--checkpoint", choices=["best", "last"], default="best", help="which weights (default: best)"
    )
    export.add_argument("--output", type=Path, help="file to write (default: RUN/model.FORMAT)")


def _add_tune(commands: "argparse._SubParsersAction[Any]") -> None:
    text = "Measure which ranks, threads, precision and layout train fastest here, and write the best down."
    tune = commands.add_parser(
        "tune",
        help=text,
        description=f"{text} The network and the global batch stay; the time is that of real ranks on batches in memory. "
        "What was measured is kept as it comes (tuning.json), the file as it was as FILE.before-tune. See docs/tuning.md.",
        epilog="example: hpctrain tune runs/demo --minutes 10 --dry-run",
    )
    tune.add_argument("target", type=Path, help=_TARGET)
    tune.add_argument(
        "overrides", nargs="*", default=[], metavar="key.sub=value", help="change a key for the measurements"
    )
    tune.add_argument("--minutes", type=_minutes, default=5.0, help="how long to measure, about (default: 5)")
    tune.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")
    tune.add_argument(
        "--allow-precision", action="store_true",
        help="also take bf16, where it is fastest: it changes the result of training",
    )  # fmt: skip


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"a number of minutes above 0, not {text!r}")
    return minutes


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"a number from 0 on, not {text!r}")
    return int(text)
