"""HDF5 as NERSC's HEP-CNN benchmark and its relatives write it (Bhimji et al., arXiv:1711.03573).

Two layouts are about: ``data`` (n, C, φ, η), ``label``, ``normweight``, ``weight``, ``psr`` at the top
(NERSC/hep_cnn_benchmark), and a group ``all_events`` with ``hist``, ``histEM``, ``histtrack`` (n, η, φ), ``y``,
``weight``, ``normalized_weight``, ``passSR`` (eracah/atlas_dl).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import PositiveInt

from hpctrain.convert.base import Converter, ConverterConfig, Finite, Piece, listed, said_by_all
from hpctrain.convert.hdf5_files import Hdf5Input, one_a_row, pieces_of, same_length
from hpctrain.convert.rows import AnyField, dense_rows, field_name, make_field
from hpctrain.data.columns import Array, Columns, SparseRows, take
from hpctrain.data.schema import DenseField, Fields
from hpctrain.errors import UserError
from hpctrain.registry import register

ALIASES = {
    "label": ("label", "labels", "y"),
    "weight": ("weight", "weights"),
    "normweight": ("normweight", "normalized_weight"),
    "selected": ("psr", "passSR"),
}
"""Field → names that files give it."""
WHOLE_IMAGES = ("data", "images")
FIRST_LAYER = "hist"
MORE_LAYERS = ("histEM", "histtrack")
GROUP = "all_events"
CHANNELS = ("calorimeter energy", "electromagnetic energy", "tracks")
"""What the three channels are in both layouts; energies may be scaled, which the files do not say."""


@dataclass(frozen=True)
class _Layout:
    """Where a file has what."""

    images: tuple[str, ...]
    channels_last: bool
    phi_first: bool
    shape: tuple[int, int, int]
    scalars: dict[str, str]
    """Field → dataset, of those in ``ALIASES`` that are there, and of ``extra``."""


@register("converters")
class NerscHdf5(Converter):
    """NERSC's layout of HDF5: dense images → sparse ``image`` (channels, η, φ), ``label``, ``weight``, ``normweight``."""

    default_label = "label"
    default_weight = "weight"
    what = "dataset"
    packages = ("numpy", "h5py")

    class Config(ConverterConfig):
        speed_keys: ClassVar[frozenset[str]] = frozenset({"batch"})
        kind: Literal["nersc_hdf5"] = "nersc_hdf5"
        group: str | None = None
        """Group that holds the datasets. None: ``all_events`` where there is one, else the top of the file."""
        images: tuple[str, ...] = ()
        """Datasets of the images, (n, H, W) each a channel, or one of (n, C, H, W). Empty: ``data`` or
        ``images``, or ``hist`` with ``histEM`` and ``histtrack`` where they are."""
        axes: Literal["auto", "eta_phi", "phi_eta"] = "auto"
        """Sequence of the last two axes in the file. ``auto``: (φ, η) for ``data``, as NERSC's converter wrote
        it, else (η, φ). The field ``image`` always has (η, φ)."""
        channels: Literal["auto", "first", "last"] = "auto"
        """Where the channels of (n, …) images of three axes are. ``auto``: last, when only that axis is short."""
        extra: tuple[str, ...] = ()
        """More datasets of one number an event to keep, e.g. ``jz``, ``mg``, ``mn``, ``eid``."""
        batch: PositiveInt = 4096
        """Most events in memory at a time; large images are read in smaller pieces."""

    config: Config

    def fields(self, path: Path) -> Fields:
        with Hdf5Input(path) as file:
            layout = self._layout(file)
            fields: dict[str, AnyField] = {
                "image": make_field("sparse", f"{path}: {', '.join(layout.images)}", shape=layout.shape)
            }
            for name, dataset in layout.scalars.items():
                if name in {"label", "weight"}:
                    continue  # the driver's
                dtype = {"normweight": np.dtype("f8"), "selected": np.dtype("u1")}.get(name)
                found = file.dataset(dataset).dtype
                found = np.dtype("u1") if found == bool else found.newbyteorder("=")
                fields[name] = DenseField(dtype=str(dtype or found))
            return fields

    def pieces(self, path: Path, number: int, scalars: Sequence[str]) -> Iterator[Piece]:
        fields = self.fields(path)
        with Hdf5Input(path) as file:
            layout = self._layout(file)
            wanted = {name: self._dataset(file, layout, name) for name in scalars}
            datasets = {*layout.images, *layout.scalars.values(), *wanted.values()}
            events = same_length(path, [(name, len(file.dataset(name))) for name in sorted(datasets)])
            row_bytes = sum(file.dataset(n).dtype.itemsize * file.dataset(n).size for n in layout.images)
            for start, stop in pieces_of(events, row_bytes / max(1, events), self.config.batch):
                rows = np.arange(start, stop, dtype=np.int64)
                image = self._images(file, layout, start, stop)
                kept = {
                    name: one_a_row(file.read(dataset, start, stop), f"{path}: dataset '{dataset}'")
                    for name, dataset in layout.scalars.items()
                    if name in fields
                }
                finite = Finite(self.config.non_finite, path, self.what)
                read: dict[str, Any] = {layout.scalars[name]: values for name, values in kept.items()}
                good = np.flatnonzero(finite.keep(rows, {", ".join(layout.images): image, **read}))
                with np.errstate(over="ignore"):  # named by the driver
                    image = SparseRows(image.offsets, image.indices, image.values.astype(np.float32))
                columns: Columns = {
                    "image": image,
                    **{name: values.astype(fields[name].dtype) for name, values in kept.items()},
                }
                yield Piece(
                    columns=take(columns, good),
                    rows=rows[good],
                    scalars={
                        name: one_a_row(file.read(dataset, start, stop), f"{path}: dataset '{dataset}'")[good]
                        for name, dataset in wanted.items()
                    },
                    read=stop - start,
                    dropped=finite.dropped,
                    progress=stop / events,
                )

    def scalar(self, path: Path, name: str | None) -> Iterator[Array]:
        with Hdf5Input(path) as file:
            layout = self._layout(file)
            dataset = layout.images[0] if name is None else self._dataset(file, layout, name)
            for start, stop in pieces_of(len(file.dataset(dataset)), 8, 2**20):
                if name is None:
                    yield np.ones(stop - start)
                else:
                    yield one_a_row(file.read(dataset, start, stop), f"{path}: dataset '{dataset}'")

    def label(self, names: Sequence[str], about: Sequence[Mapping[str, Any]]) -> str:
        return self.config.description or f"HDF5 {listed(names)} in NERSC's layout{said_by_all(about)}"

    def describe(self) -> dict[str, Any]:
        # Neither the range in η nor the scale of the energies is in the files: cells are drawn, and no GeV.
        return {"image_axes": "cells", "image_channels": list(CHANNELS)}

    def about(self, path: Path) -> dict[str, Any]:
        with Hdf5Input(path) as file:
            layout = self._layout(file)
            three = len(CHANNELS) == layout.shape[0]
            return {
                **file.attributes(),
                "images": list(layout.images),
                "axes_in_the_file": "phi, eta" if layout.phi_first else "eta, phi",
                "channels": list(CHANNELS if three else CHANNELS[: layout.shape[0]]),
            }

    def _layout(self, file: Hdf5Input) -> _Layout:
        group = self.config.group
        if group is None:
            group = GROUP if any(name.startswith(GROUP + "/") for name in file.names()) else ""
        prefix = f"{group.strip('/')}/" if group else ""
        images = tuple(prefix + name for name in self.config.images) or _find_images(file, prefix)
        shapes = {file.dataset(name).shape[1:] for name in images}
        first = file.dataset(images[0]).shape[1:]
        if len(shapes) > 1 or len(first) not in {2, 3} or (len(first) == 3 and len(images) > 1):
            raise UserError(
                f"{file.path}: {', '.join(images)}: shapes {', '.join(map(str, sorted(shapes)))} after the "
                "event are no images",
                hint="Images are datasets (n, H, W), one a channel, or one dataset (n, C, H, W)",
            )
        for name in images:
            kind = file.dataset(name).dtype
            if kind.kind not in "fiub" or 0 in first:
                raise UserError(
                    f"{file.path}: dataset '{name}' holds {kind} of shape {list(first)} an event, no image",
                    hint="Images are numbers; images=[…] names other datasets",
                )
        last = self.config.channels == "last"
        if self.config.channels == "auto":
            last = len(first) == 3 and first[2] <= 4 < first[0]
        name = images[0].removeprefix(prefix)
        phi_first = self.config.axes == "phi_eta" or (self.config.axes == "auto" and name == "data")
        if len(first) == 2:
            channels, height, width = len(images), first[0], first[1]
        else:
            channels, height, width = (first[2], first[0], first[1]) if last else tuple(first)
        shape = (channels, width, height) if phi_first else (channels, height, width)
        scalars = {
            field: next(prefix + name for name in names if file.has(prefix + name))
            for field, names in ALIASES.items()
            if any(file.has(prefix + name) for name in names)
        }
        for extra in self.config.extra:
            file.dataset(prefix + extra)
            scalars[field_name(extra)] = prefix + extra
        return _Layout(images, last and len(first) == 3, phi_first, shape, scalars)

    def _dataset(self, file: Hdf5Input, layout: _Layout, name: str) -> str:
        """The dataset of a scalar: one of the usual fields, or a path in the group or the file."""
        if name in layout.scalars:
            return layout.scalars[name]
        if name in ALIASES:
            raise UserError(
                f"{file.path} has none of the datasets {', '.join(ALIASES[name])}",
                hint=f"Give {name}=NUMBER or {name}=DATASET",
            )
        prefix = layout.images[0].rpartition("/")[0]
        inside = f"{prefix}/{name}" if prefix else name
        return inside if file.has(inside) else name

    def _images(self, file: Hdf5Input, layout: _Layout, start: int, stop: int) -> SparseRows:
        parts = [file.read(name, start, stop) for name in layout.images]
        array = np.stack(parts, axis=1) if parts[0].ndim == 3 else parts[0]
        if layout.channels_last:
            array = np.moveaxis(array, -1, 1)
        if layout.phi_first:
            array = np.swapaxes(array, 2, 3)
        return SparseRows.from_dense(dense_rows(array))


def _find_images(file: Hdf5Input, prefix: str) -> tuple[str, ...]:
    """The datasets of the images. Raises ``UserError`` when there are none of the known names."""
    for name in WHOLE_IMAGES:
        if file.has(prefix + name):
            return (prefix + name,)
    if not file.has(prefix + FIRST_LAYER):
        known = ", ".join((*WHOLE_IMAGES, FIRST_LAYER))
        raise UserError(
            f"{file.path} has no images: none of the datasets {known}{f' in {prefix[:-1]}' if prefix else ''}",
            hint=f"It has {', '.join(file.names()[:12]) or 'none'}; name them with images=[…], or convert it with kind hdf5",
        )
    return (prefix + FIRST_LAYER, *(prefix + name for name in MORE_LAYERS if file.has(prefix + name)))
