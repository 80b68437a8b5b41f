"""Which event is shown, and what stands where in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpctrain.data.columns import SparseRows
from hpctrain.data.schema import DenseField, SparseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.report.displays import (
    MOST_CHANNELS,
    Event,
    can_average,
    event_display,
    look_of,
    mean_image,
    mean_images,
    typical_event,
)
from hpctrain.report.style import house_style
from hpctrain.run import RunDirectory


@pytest.fixture(scope="module")
def dataset(trained: RunDirectory) -> ShardDataset:
    return ShardDataset.open(trained.data / "test")


def test_the_event_shown_is_the_median_of_its_class(dataset: ShardDataset) -> None:
    for label in (0, 1):
        event = typical_event(dataset, label)
        masses = dataset.column("sum_mass")[dataset.column("label") == label]
        assert event is not None
        assert event.sum_mass in masses
        assert abs((masses < event.sum_mass).mean() - 0.5) < 0.03
    assert typical_event(dataset, 2) is None


def test_mean_image_is_the_mean(dataset: ShardDataset) -> None:
    found, events = mean_image(dataset, 1)
    rows = dataset.column("label") == 1
    dense = dataset.column("image").dense(dataset.fields["image"].shape)[rows]
    assert events == rows.sum()
    np.testing.assert_allclose(found, dense.mean(axis=0), rtol=1e-5)


def test_a_jet_at_the_seam_is_drawn_on_both_sides() -> None:
    jets = np.zeros((5, 4))
    jets[0] = 500, 0.5, 3.0, 90
    jets[1] = 450, -1.0, 0.0, 60
    image = np.zeros((3, 16, 16))
    image[:, 12, 3] = 7.0
    with house_style():
        figure = event_display(Event(image, jets, 2, 150.0, 1, False))
    panel = figure.axes[0]
    centres = sorted(round(float(circle.center[1]), 3) for circle in panel.patches)
    assert centres == [round(3.0 - 2 * np.pi, 3), 0.0, 3.0]
    assert len(figure.axes) == 3


def test_eta_runs_across_and_phi_up() -> None:
    image = np.zeros((3, 16, 16))
    image[:, 12, 3] = 7.0  # η cell 12 of 16, φ cell 3 of 16
    with house_style():
        figure = event_display(Event(image, np.zeros((5, 4)), 0, 0.0, 1, False))
    picture = figure.axes[0].images[0]
    assert np.argwhere(picture.get_array().filled(0) > 0).tolist() == [[3, 12]]
    assert picture.origin == "lower"
    assert picture.get_extent() == pytest.approx([-2.5, 2.5, -np.pi, np.pi])


@pytest.mark.parametrize(("channels", "panels"), [(1, 1), (2, 2), (3, 3), (7, MOST_CHANNELS)])
def test_data_of_any_number_of_channels_are_drawn(channels: int, panels: int) -> None:
    image = np.random.default_rng(0).exponential(size=(channels, 16, 16))
    with house_style():
        event = event_display(Event(image, np.zeros((5, 4)), 0, 0.0, 1, False))
        mean = mean_images(image, 2 * image, look_of({}, channels))
        mean.draw_without_rendering()
    assert len(event.axes) == panels
    assert len(mean.axes) == 2 * panels
    name = "ECAL [GeV]" if channels == 3 else "channel 1"
    assert event.axes[0].get_title(loc="left") == name


@pytest.mark.parametrize(
    ("provenance", "names", "unrolled"),
    [
        ({}, ("ECAL [GeV]", "HCAL [GeV]", "tracks"), True),
        ({"image_axes": "cells"}, ("channel 1", "channel 2", "channel 3"), False),
        ({"image_channels": ["all", "EM", "tracks"]}, ("all", "EM", "tracks"), False),
        (
            {"image_channels": ["all", "EM", "tracks"], "image_axes": "detector"},
            ("all", "EM", "tracks"),
            True,
        ),
        ({"image_channels": ["all"]}, ("channel 1", "channel 2", "channel 3"), False),
    ],
)
def test_channels_are_called_what_the_provenance_calls_them(provenance, names, unrolled) -> None:
    look = look_of(provenance, 3)
    assert (look.names, look.unrolled) == (names, unrolled)
    with house_style():
        figure = mean_images(np.ones((3, 8, 8)), np.ones((3, 8, 8)), look)
    assert figure.axes[0].get_title(loc="left") == f"Signal: {names[0]}"
    assert figure.axes[3].get_xlabel() == ("η" if unrolled else "cell")


def test_one_channel_data_have_a_mean_image(tmp_path: Path) -> None:
    fields = {"image": SparseField(shape=(1, 4, 4)), "label": DenseField(dtype="int64")}
    images = np.arange(32, dtype=np.float32).reshape(2, 1, 4, 4)
    with ShardWriter(tmp_path / "train", fields) as writer:
        writer.append({"image": SparseRows.from_dense(images), "label": np.array([0, 1])})
    dataset = ShardDataset.open(tmp_path / "train")
    assert can_average(dataset)
    np.testing.assert_array_equal(mean_image(dataset, 1)[0], images[1])
