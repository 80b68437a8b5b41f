"""The engine with a recipe that needs no generator: any order of completion, resuming, classes, provenance."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from hpctrain import machine
from hpctrain.config import Experiment
from hpctrain.data.columns import Columns, RaggedRows
from hpctrain.data.schema import DenseField, Fields, RaggedField
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.ingest import generation
from hpctrain.ingest.assemble import Sample
from hpctrain.ingest.chunks import Chunk, Settings
from hpctrain.ingest.generation import Generation, GenerationConfig
from hpctrain.physics.generator import CrossSection
from hpctrain.physics.processes import Process
from hpctrain.run import RunDirectory
from hpctrain.track import read_metrics


@dataclass(frozen=True)
class ToySettings(Settings):
    """Random points; of ``rare`` every tenth event is kept, of others all."""

    width: float

    def fields(self) -> Fields:
        return {
            "x": DenseField(shape=(2,), features=("a", "b")),
            "points": RaggedField(shape=(1,), features=("r",)),
            "event_id": DenseField(dtype="int64"),
        }

    def simulate(self, chunk: Chunk) -> tuple[Columns, CrossSection]:
        rng = chunk.random()
        rows = np.arange(0, chunk.events, 10 if chunk.process.name == "rare" else 1)
        lists = [rng.normal(0, self.width, (n, 1)) for n in rng.integers(0, 5, len(rows))]
        columns: Columns = {
            "x": rng.normal(chunk.process.target, 1.0, (len(rows), 2)).astype(np.float32),
            "points": RaggedRows.from_lists(lists, (1,)),
            "event_id": chunk.event_ids(rows),
        }
        return columns, CrossSection(2e-12, 1e-13, chunk.events)


class Toy(Generation):
    """Three classes."""

    classes = ("red", "green", "blue")
    rows = "points"

    class Config(GenerationConfig):
        kind: Literal["toy"] = "toy"
        events: int = 60
        width: float = 1.0
        names: tuple[str, ...] = ("red", "green", "blue")

    def requests(self) -> list[tuple[Process, int]]:
        return [
            (Process(name, name, False, (), class_number=i), self.config.events)
            for i, name in enumerate(self.config.names)
        ]

    def settings(self, seed: int) -> ToySettings:
        return ToySettings(seed, self.config.width)

    def describe(self, samples: Sequence[Sample]) -> dict[str, Any]:
        return {"label": "toy: random points"}


Order = Callable[[list[Any]], list[Any]]
Run = Callable[..., tuple[RunDirectory, dict[str, Any]]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the toy in this process; chunks are finished in the order that ``order`` gives them."""

    def go(name: str, order: Order = list, stop_after: int = 1000, **settings: Any) -> Any:
        def tasks(function: Any, items: Sequence[Any], **_: Any) -> Iterator[Any]:
            for number, item in enumerate(order(list(items))):
                if number == stop_after:
                    raise KeyboardInterrupt
                yield function(item)

        monkeypatch.setattr(generation, "run_tasks", tasks)
        monkeypatch.setattr(machine, "commit", lambda: "0" * 40)
        directory = RunDirectory(tmp_path / name, Experiment(name="test", seed=3))
        directory.logs.mkdir(parents=True, exist_ok=True)
        component = Toy(Toy.Config.model_validate({"events_per_chunk": 16, **settings}))
        with directory.tracker("generate") as tracker:
            return directory, component.run(directory, tracker)

    return go


def _files(directory: RunDirectory) -> dict[str, bytes]:
    return {
        str(p.relative_to(directory.data)): p.read_bytes() for p in directory.data.rglob("*") if p.is_file()
    }


def _shuffled(items: list[Any]) -> list[Any]:
    return [items[i] for i in np.random.default_rng(1).permutation(len(items))]


def test_any_order_of_completion_gives_the_same_bytes(run: Run) -> None:
    first = _files(run("first")[0])
    assert len(first) == 6
    for name, order in (("backwards", lambda items: items[::-1]), ("shuffled", _shuffled)):
        assert _files(run(name, order)[0]) == first


def test_an_interrupted_one_goes_on_and_ends_the_same(run: Run) -> None:
    whole, _ = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("stopped", _shuffled, stop_after=5)
    directory, figures = run("stopped")
    assert figures["generated"] == 180
    resumed = next(line for line in read_metrics(directory.metrics_path) if line["event"] == "resumed")
    assert resumed["parts"] == 5
    assert figures["generated_now"] == 180 - resumed["events"]
    assert _files(directory) == _files(whole)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_part_that_is_damaged_is_done_again(run: Run) -> None:
    whole, _ = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("stopped", _shuffled, stop_after=9)
    folder = whole.path.with_name("stopped") / "data" / "parts"
    shards = sorted(folder.glob("*.h5"))
    _flip(shards[1])
    shards[3].write_bytes(shards[3].read_bytes()[:-1])
    shards[4].unlink()
    shards[6].with_suffix(".json").write_text('{"file": ')
    shards[7].with_suffix(".json").write_text("[]")
    directory, _ = run("stopped")
    resumed = next(line for line in read_metrics(directory.metrics_path) if line["event"] == "resumed")
    assert resumed["parts"] == 4
    assert _files(directory) == _files(whole)


def test_parts_of_other_settings_are_not_used(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        run("one", stop_after=5)
    _, figures = run("one", width=2.0)
    assert figures["generated_now"] == 180


def test_what_comes_out(run: Run) -> None:
    directory, figures = run("one")
    assert figures["headline"] == "180 points of 180"
    assert figures["events"] == {"train": 108, "validation": 27, "test": 45}
    seen = []
    for split in ("train", "validation", "test"):
        dataset = ShardDataset.open(directory.data / split)
        rows = dataset.read(np.arange(dataset.events))
        assert set(rows["label"]) == {0, 1, 2}
        assert np.array_equal(rows["label"], rows["process"])
        # σ·L / generated: 2e-12 mb is 2 fb, in 36/fb and over 60 events
        assert rows["weight"] == pytest.approx(2.0 * 36 / 60)
        seen.append(rows["event_id"])
        assert dataset.provenance["label"] == "toy: random points"
        assert dataset.provenance["classes"] == ["red", "green", "blue"]
        assert (dataset.provenance["seed"], dataset.provenance["split"]) == (3, split)
        assert set(dataset.scale) == {"x", "points"}
    ids = np.concatenate(seen)
    assert len(np.unique(ids)) == len(ids) == 180


def test_a_class_that_a_split_lacks_is_named_and_the_parts_are_kept(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no green event for the (validation|test) split"):
        run("few", names=("red", "rare", "blue"), events=10)
    assert len(list((tmp_path / "few" / "data" / "parts").glob("*.json"))) == 3
