"""Runs a converter over input files and writes one dataset, whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import hpctrain
from hpctrain import machine, registry
from hpctrain.config import apply_override
from hpctrain.convert.base import RESERVED, Converter, ConverterConfig
from hpctrain.convert.one_file import FileResult, FileTask, columns_of
from hpctrain.convert.parallel import converted_elsewhere
from hpctrain.convert.rules import FORMS, Sample, samples_of
from hpctrain.data.columns import Columns
from hpctrain.data.curation.feature_scale import FeatureScale
from hpctrain.data.curation.image_scale import ImageScale
from hpctrain.data.curation.whole_directory import whole_directory
from hpctrain.data.schema import DatasetInfo, DenseField, Fields
from hpctrain.data.shard_file import Compression
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.errors import UserError

Progress = Callable[[int, int, int], None]
"""Hears (bytes of the inputs done, of how many, events kept so far)."""


QUOTING = """As a shell needs it: label='{"*ttbar*": 1, "*": 0}' in single quotes, with double ones around patterns"""


def read_config(kind: str, settings: Sequence[str] = ()) -> ConverterConfig:
    """The converter's configuration from ``key=value`` texts (YAML values, ``a.b=value`` for keys inside).

    Raises ``UserError`` for an unknown kind or key (with the nearest right one) or a wrong value.
    """
    owner = registry.find("converters", kind)
    data: dict[str, Any] = {"kind": kind}
    for setting in settings:
        try:
            apply_override(data, setting)
        except UserError as error:
            raise UserError(error.message, hint=QUOTING) from error
    try:
        config = owner.Config.model_validate(data)
    except ValidationError as error:
        raise UserError(
            f"{kind}: {in_words(error)}", hint=f"`hpctrain data convert {kind} --help` explains its keys"
        ) from error
    if not isinstance(config, ConverterConfig):
        raise TypeError(f"the Config of {kind} does not derive from ConverterConfig")
    return config


def in_words(error: ValidationError) -> str:
    """The first thing that is wrong, with its key."""
    first = error.errors(include_url=False)[0]
    # Which form of a rule it is held to is no key.
    where = ".".join(str(part) for part in first["loc"] if part not in FORMS)
    text = str(first["msg"]).removeprefix("Value error, ")
    if "valid string" in text and isinstance(first["input"], bool):
        text += " (YAML takes on, off, yes and no for truth values: quote them)"
    elif "valid string" in text and isinstance(first["input"], dict):
        text += """ (YAML takes what has ': ' in it for keys and values: key='"a: b"')"""
    return f"{where}: {text}" if where else text


def convert(
    config: ConverterConfig,
    inputs: Sequence[Path],
    output: Path,
    *,
    events_per_shard: int = 2**16,
    shard_bytes: int = 64 * 2**20,
    compression: Compression = "none",
    workers: int | None = 1,
    progress: Progress = lambda done, total, events: None,
) -> DatasetInfo:
    """Convert ``inputs``, in their order, into one dataset at ``output``, which appears whole or not at all.

    ``workers`` processes convert files side by side (None: one per core, at most one per file); the dataset is
    the same for any number of them. Memory: a piece and a few shards in each process. Beside the format's
    fields every event has ``source`` (number of its file in ``provenance["sources"]``), ``event_id``
    (source << 32 | number in its file), ``process`` (in ``provenance["processes"]``: files that share their
    rules for label and weight), ``weight`` and, where there is one, ``label``.

    Raises ``UserError``: an input missing, empty, damaged, given twice or of other content than the first; NaN;
    ``output`` taken; disk full.
    """
    converter: Converter = config.build()
    converter.check()
    inputs = [Path(path) for path in inputs]
    names = _check_inputs(inputs)
    sizes = [path.stat().st_size for path in inputs]
    fields = _common_fields(converter, inputs)
    samples = samples_of(
        inputs, config.label, config.weight, converter.default_label, converter.default_weight
    )
    fields = {**fields, **_own_fields(samples)}
    results: list[FileResult] = []
    with whole_directory(output) as folder:
        samples = [_with_sum_of_weights(sample, converter, inputs) for sample in samples]
        tasks = _tasks(config, inputs, samples)
        workers = min(workers or machine.cores(), len(inputs))
        # Parts lie in the same folder, so that they go with it after an error.
        events = (
            columns_of_all(tasks, results)
            if workers == 1
            else converted_elsewhere(tasks, fields, folder / "parts", workers, results)
        )
        provenance: dict[str, Any] = {}
        scale: dict[str, Any] = {}
        constants = (ImageScale(fields), FeatureScale(fields))
        kept = 0
        with ShardWriter(
            folder, fields,
            provenance=provenance, scale=scale,
            events_per_shard=events_per_shard, shard_bytes=shard_bytes, compression=compression,
        ) as writer:  # fmt: skip
            for number, columns, part in events:
                writer.append(columns)
                for gathered in constants:
                    gathered.add(columns)
                kept += len(columns["source"])
                progress(int(sum(sizes[:number]) + part * sizes[number]), sum(sizes), kept)
            _check_results(converter, inputs, results, kept)
            for gathered in constants:
                scale.update(gathered.constants())
            provenance.update(_provenance(converter, config, names, samples, results))
    return DatasetInfo.read(output)


def columns_of_all(
    tasks: Sequence[FileTask], results: list[FileResult]
) -> Iterator[tuple[int, Columns, float]]:
    """(file, columns, part of the file done) of file after file, here; ``results`` grows by one for each."""
    for task in tasks:
        for columns, part in columns_of(task, results):
            yield task.number, columns, part


def _check_inputs(inputs: Sequence[Path]) -> list[str]:
    """Names for the provenance: those of the files, or whole paths where two have the same."""
    if not inputs:
        raise UserError("no input files", hint="Name one or more after the kind")
    for path in inputs:
        if path.is_dir():
            raise UserError(f"{path} is a folder", hint=f"Name the files in it: {path}/*")
        try:
            size = path.stat().st_size
            with path.open("rb"):
                pass
        except OSError as error:
            pattern = isinstance(error, FileNotFoundError) and any(c in path.name for c in "*?[")
            raise UserError(
                f"cannot read {path}: {error.strerror}",
                hint="No file fits this pattern" if pattern else "Is the name right, and may you read it?",
            ) from error
        if size == 0:
            raise UserError(
                f"{path} is empty (0 bytes)", hint="Copy it again from where it came, or leave it out"
            )
    places = Counter(path.resolve() for path in inputs)
    for path in inputs:
        if places[path.resolve()] > 1:
            raise UserError(f"{path} is given {places[path.resolve()]} times", hint="Name each input once")
    counts = Counter(path.name for path in inputs)
    return [path.name if counts[path.name] == 1 else str(path) for path in inputs]


def _common_fields(converter: Converter, inputs: Sequence[Path]) -> Fields:
    """The fields of the first file, when all others have the same. Raises ``UserError`` naming the difference."""
    first = dict(converter.fields(inputs[0]))
    for path in inputs[1:]:
        other = dict(converter.fields(path))
        for name in [*first, *(n for n in other if n not in first)]:
            if first.get(name) != other.get(name):
                raise UserError(
                    f"{path}: field '{name}' is {_in_words(other.get(name))}, "
                    f"in {inputs[0]} it is {_in_words(first.get(name))}",
                    hint="Files of one dataset have the same content: convert them apart, or choose fields that both have",
                )
    taken = sorted(set(first) & {*RESERVED, "row"})
    if taken:
        own = taken[0] in {"label", "weight"}
        raise UserError(
            f"{inputs[0]}: the field name '{taken[0]}' is taken",
            hint=f"{taken[0]}=NAME says which {converter.what} it comes from"
            if own
            else "Choose the fields with fields.NAME=…, and another name for this one",
        )
    return first


def _in_words(field: Any) -> str:
    if field is None:
        return "missing"
    features = f" ({', '.join(field.features)})" if field.features else ""
    return f"{field.kind} {field.dtype}{list(field.shape)}{features}"


def _own_fields(samples: Sequence[Sample]) -> Fields:
    """Fields that the driver adds. Raises ``UserError`` when some files would have a label and others none."""
    labelled = {sample.label is not None for sample in samples}
    if len(labelled) > 1:
        raise UserError("some files have a label and some have none", hint="Give a label for every pattern")
    fields: dict[str, DenseField] = {"label": DenseField(dtype="int64")} if labelled == {True} else {}
    return {
        **fields,
        "weight": DenseField(dtype="float64"),
        "process": DenseField(dtype="int64"),
        "source": DenseField(dtype="int64"),
        "event_id": DenseField(dtype="int64"),
    }


def _with_sum_of_weights(sample: Sample, converter: Converter, inputs: Sequence[Path]) -> Sample:
    """The sample with 1/Σw in its factor, which is read from its files unless the user gave it."""
    rule = sample.cross_section
    if rule is None:
        return sample
    total = rule.sum_of_weights
    if total is None:
        total = sum(
            float(values.sum())
            for number in sample.files
            for values in converter.scalar(inputs[number], sample.weight.branch)
        )
        if not total > 0:
            raise UserError(
                f"weight of {sample.name}: the generator weights add up to {total:g}, which cannot be divided by",
                hint="Give weight.sum_of_weights, or weight.branch for other generator weights",
            )
        rule = rule.model_copy(update={"sum_of_weights": total})
    weight = replace(sample.weight, factor=sample.weight.factor / total)
    return replace(sample, weight=weight, cross_section=rule)


def _tasks(config: ConverterConfig, inputs: Sequence[Path], samples: Sequence[Sample]) -> list[FileTask]:
    process = {number: index for index, sample in enumerate(samples) for number in sample.files}
    return [
        FileTask(config, path, number, process[number], samples[process[number]])
        for number, path in enumerate(inputs)
    ]


def _check_results(
    converter: Converter, inputs: Sequence[Path], results: Sequence[FileResult], kept: int
) -> None:
    same: dict[str, Path] = {}
    for path, result in zip(inputs, results, strict=True):
        other = same.setdefault(result.sha256, path)
        if other is not path:
            raise UserError(
                f"{path} has the same bytes as {other}", hint="Its events would count twice: leave it out"
            )
    if kept == 0:
        read = sum(result.read for result in results)
        raise UserError(
            f"no event is left of {read} in {inputs[0]}{' …' if len(inputs) > 1 else ''}",
            hint=f"Loosen the selection of {converter.config.kind}",
        )


def _provenance(
    converter: Converter,
    config: ConverterConfig,
    names: Sequence[str],
    samples: Sequence[Sample],
    results: Sequence[FileResult],
) -> dict[str, Any]:
    """Where the events come from, in plain JSON types; nothing depends on the number of workers or the clock."""
    return {
        "label": converter.label(names, [result.about for result in results]),
        "sources": [
            {
                "name": name,
                "bytes": result.size,
                "sha256": result.sha256,
                "events_read": result.read,
                "events_not_finite": result.dropped,
                "rows_kept": result.kept,
                **({"about": dict(result.about)} if result.about else {}),
            }
            for name, result in zip(names, results, strict=True)
        ],
        "processes": [_process(sample, names, results) for sample in samples],
        "events_read": sum(result.read for result in results),
        "events_not_finite": sum(result.dropped for result in results),
        "rows_kept": sum(result.kept for result in results),
        "luminosity_fb": _luminosity(samples),
        **({"units": dict(converter.units)} if converter.units else {}),
        "converter": {
            "settings": config.model_dump(mode="json"),
            "versions": {"hpctrain": hpctrain.__version__, **converter.versions()},
            "commit": machine.commit(),
        },
        **converter.describe(),
    }


def _process(sample: Sample, names: Sequence[str], results: Sequence[FileResult]) -> dict[str, Any]:
    """One entry of ``processes``, with the keys that those of generated samples have."""
    rule = sample.cross_section
    label = None if sample.label is None else sample.label.constant
    kept = sum(results[number].kept for number in sample.files)
    return {
        "name": sample.name,
        "label": sample.name,
        "signal": None if label is None else label == 1,
        "files": [names[number] for number in sample.files],
        "cross_section_mb": None if rule is None else rule.cross_section_pb * 1e-9,
        "sum_of_weights": None if rule is None else rule.sum_of_weights,
        "generated": sum(results[number].read for number in sample.files),
        "preselected": kept,
        "in_split": kept,
        "split_fraction": 1.0,
    }


def _luminosity(samples: Sequence[Sample]) -> float | None:
    """That of the weights, when all samples with a cross section agree on one."""
    found = {sample.cross_section.luminosity_fb for sample in samples if sample.cross_section is not None}
    if len(found) > 1:
        raise UserError(
            f"weights refer to different luminosities: {', '.join(f'{x:g}' for x in sorted(found))} 1/fb",
            hint="Give every pattern of weight the same luminosity_fb",
        )
    return found.pop() if found else None
