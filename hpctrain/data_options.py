"""What ``hpctrain data …`` takes: its commands and their options. ``data_commands`` does them."""

import argparse
from pathlib import Path
from typing import Any

COMMANDS = {
    "inspect": (
        "Say what a dataset holds, and draw some of its events.",
        "hpctrain data inspect runs/demo/data/test --picture events.png",
    ),
    "verify": (
        "Hold every byte of datasets to what was written: exit code 0 when all are whole, 1 otherwise.",
        "hpctrain data verify /scratch/mine/train /scratch/mine/test",
    ),
    "merge": (
        "Join datasets of the same fields into one, without reading or copying their events.",
        "hpctrain data merge parts/* --output /scratch/all",
    ),
    "split": (
        "Split a dataset into train, validation and test, shuffled, for `generate: {kind: shards}`.",
        "hpctrain data split /scratch/all --output /scratch/mine --fractions 0.6 0.15 0.25 --by source",
    ),
    "convert": (
        "Convert files of other formats into a dataset.",
        "hpctrain data convert nanoaod *.root --output /scratch/all label=1",
    ),
    "stage": (
        "Copy datasets to a faster disk, checked; prints where they are then.",
        "hpctrain data stage /scratch/mine/train --to '$SLURM_TMPDIR' /tmp",
    ),
}
"""Name → (what it does, example)."""


def add(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add ``data`` and its commands to those of ``hpctrain``."""
    text = "Look at, check, join, split, convert and stage datasets."
    data = commands.add_parser(
        "data",
        help=text,
        description=text,
        epilog="example: hpctrain data inspect runs/demo/data/test\nEvery command: hpctrain data COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inner = data.add_subparsers(dest="data_command", required=True, metavar="COMMAND")
    parsers = {
        name: inner.add_parser(
            name,
            help=what,
            description=what,
            epilog=f"example: {example}\n\nMore in docs/data_commands.md",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=name != "convert",
        )
        for name, (what, example) in COMMANDS.items()
    }
    _inspect_options(parsers["inspect"])
    parsers["verify"].add_argument("directories", nargs="+", type=Path, metavar="DIR", help=_DIRECTORY)
    _merge_options(parsers["merge"])
    _split_options(parsers["split"])
    _convert_options(parsers["convert"])
    _stage_options(parsers["stage"])


_DIRECTORY = "directory with dataset.json, or one that holds such (train, validation, test)"


def _inspect_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help=_DIRECTORY)
    parser.add_argument(
        "--events", type=_positive, default=2000, metavar="N", help="events to take ranges from (2000)"
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE.png", help="where the picture goes (NAME.png in this folder)"
    )
    parser.add_argument("--rows", nargs="+", type=int, metavar="ROW", help="events to draw (typical ones)")
    parser.add_argument("--no-picture", action="store_true", help="draw nothing")


def _merge_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("parts", nargs="+", type=Path, metavar="PART", help="directory with dataset.json")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="new directory")
    parser.add_argument("--copy", action="store_true", help="copy the shards instead of linking them")


def _split_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory with dataset.json")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="OUT", help="new directory for the three"
    )
    parser.add_argument(
        "--fractions", nargs=3, type=float, default=[0.6, 0.15, 0.25], metavar=("TRAIN", "VALIDATION", "TEST"),
        help="shares of the events (0.6 0.15 0.25)",
    )  # fmt: skip
    parser.add_argument(
        "--by", metavar="FIELD", help="keep events with the same value together in one split: source, run …"
    )
    parser.add_argument(
        "--stratify", metavar="FIELD", help="cut each value by the fractions: label, process …"
    )
    parser.add_argument("--seed", type=int, default=1, help="another seed is another split (1)")
    parser.add_argument(
        "--memory",
        type=_positive,
        default=1024,
        metavar="MIB",
        help="events held in memory at once (1024 MiB)",
    )
    parser.add_argument("--compression", choices=("none", "zstd"), default="none")


def _stage_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help=_DIRECTORY)
    parser.add_argument(
        "--to", nargs="+", default=[], metavar="FOLDER",
        help="folders to try in this order, the first that can be used; may name environment variables ('$TMPDIR')",
    )  # fmt: skip
    parser.add_argument("--site", metavar="NAME", help="then those that this site has: its name, or its file")


def _convert_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-h", "--help", action="store_true", help="also: hpctrain data convert KIND --help")
    parser.add_argument("kind", nargs="?", metavar="KIND", help="format of the files")
    parser.add_argument(
        "inputs",
        nargs="*",
        default=[],
        metavar="FILE | key=value",
        help="files, and keys of the kind in YAML",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="new directory")
    parser.add_argument(
        "--workers", type=_positive, metavar="N", help="files converted side by side (one per core)"
    )
    parser.add_argument("--compression", choices=("none", "zstd"), default="none")
    # What stands after an option arrives here: see cli.main. The parser is kept for its help.
    parser.set_defaults(overrides=[], parser=parser)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number
