"""``hpctrain tune``: measure, show, write down."""

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from hpctrain import topology
from hpctrain.config import Experiment
from hpctrain.errors import Stopped, UserError
from hpctrain.files import write_atomically
from hpctrain.ingest.existing_shards import SPLITS, ExistingShards
from hpctrain.run import RunDirectory
from hpctrain.steps import begun
from hpctrain.stopping import Warned
from hpctrain.tuning import bf16
from hpctrain.tuning.bench import Bench
from hpctrain.tuning.measurement import Measurement, ranked, record, table
from hpctrain.tuning.search import Search, choice
from hpctrain.tuning.settings import Setting, layouts
from hpctrain.tuning.specimen import write_specimen
from hpctrain.tuning.timing import Stretches
from hpctrain.tuning.yaml_keys import set_keys

_BATCHES = 4
"""Of random events."""


class Tuning:
    """One call of the command, for an experiment (YAML) or a run directory."""

    def __init__(self, target: Path, overrides: Sequence[str], console: Console) -> None:
        """Reads the configuration. Raises ``UserError``."""
        self.target = target
        self.console = console
        is_run = target.is_dir()
        self.file = RunDirectory.open(target).config_path if is_run else target
        """What is read and, in the end, written."""
        self.experiment = Experiment.load(self.file, overrides)
        self.run = RunDirectory(target if is_run else self.experiment.output / self.experiment.name)
        self.results = target / "tuning.json" if is_run else target.with_suffix(".tuning.json")
        """Everything measured, from the first measurement on."""
        for section, kind in (("launch", "local"), ("training", "data_parallel")):
            found = getattr(self.experiment, section).kind
            if found != kind:
                raise UserError(f"tune measures {section}.kind={kind}, not {found}")
        self.here = topology.here()
        self.current = Setting.of(self.experiment, self.here)

    def perform(
        self, *, minutes: float, dry_run: bool, allow_precision: bool, stretches: Stretches | None = None
    ) -> Setting:
        """Measure for so long, show the table, and write the best setting unless ``dry_run``; returns it.

        ``allow_precision``: take another precision, if that is the fastest; it changes the result of training.
        Interrupted, it shows what it has, writes no setting, and raises what interrupted it.
        """
        search: Search | None = None
        with ExitStack() as stack:
            warned = stack.enter_context(Warned())
            if self.target.is_dir():
                stack.enter_context(self.run.lock())
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hpctrain-tune-")))
            data, what = self._data(scratch)
            bench = Bench(
                self.experiment, data, scratch, minutes=minutes, stretches=stretches or Stretches(), warned=warned
            )  # fmt: skip
            processor = bf16.measure()
            self._introduce(minutes, what, processor)
            search = Search(bench.measure, lambda one: self._tell(search, one, what))
            try:
                search.run(self.current, self._layouts(), self.here, bf16=processor.pays)
            except (KeyboardInterrupt, Stopped):
                self._show(search, None)
                self._say(f"Interrupted: no setting was written; what was measured is in {self.results}")
                raise
            return self._conclude(search, dry_run=dry_run, allow_precision=allow_precision)

    def _data(self, scratch: Path) -> tuple[Path, str]:
        """The events to measure with, and what they are."""
        if all((self.run.data / split / "dataset.json").exists() for split in SPLITS[:2]):
            return self.run.data, f"events of {self.run.data}"
        recipe = self.experiment.generate.build()
        if isinstance(recipe, ExistingShards):
            recipe.check()
            return recipe.reads()[0], f"events of {recipe.reads()[0]}"
        events = _BATCHES * self._batch()
        return write_specimen(self.experiment, scratch / "data", events), (
            "random events of the same shapes (there are none yet: measure again after `hpctrain generate`)"
        )

    def _batch(self) -> int:
        return int(self.experiment.training.model_dump()["global_batch_size"])

    def _layouts(self) -> list[Setting]:
        spare = self.experiment.launch.model_dump()["spare_cores"]
        return layouts(self.current, self.here, most_ranks=self._batch(), spare_cores=spare)

    def _introduce(self, minutes: float, what: str, processor: bf16.Bf16) -> None:
        self._say(f"{len(self.here.cores)} cores on {len(self.here.cpu_nodes)} NUMA node(s); {processor}")
        self._say(
            f"Measuring for about {minutes:g} min on {what}, batches of {self._batch()} that are in memory; "
            f"now: {self.current}"
        )

    def _tell(self, search: Search | None, one: Measurement, what: str) -> None:
        said = (
            f"failed: {one.error}"
            if one.error
            else f"{one.rate:,.0f} samples/s ({one.low:,.0f}–{one.high:,.0f})"
        )
        self._say(f"  {one.setting}: {said}")
        if search is not None:
            about: dict[str, Any] = {
                "configuration": str(self.file),
                "global_batch_size": self._batch(),
                "events": what,
                "now": vars(self.current),
            }
            record(self.results, list(search.found.values()), about)

    def _show(self, search: Search, best: Setting | None) -> None:
        self.console.print(table(list(search.found.values()), self.current, best))

    def _conclude(self, search: Search, *, dry_run: bool, allow_precision: bool) -> Setting:
        found = list(search.found.values())
        if not any(one.rates for one in found):
            raise UserError(f"no setting could be measured; the first failed: {found[0].error}")
        trained = self.run.step_record("train") or begun(self.run, "train")
        best = choice(found, self.current, precision=allow_precision and not trained)
        self._show(search, best)
        self._say(f"All measurements: {self.results}")
        fastest = ranked(found)[0].setting
        if fastest.precision != best.precision:
            why = (
                "the run has begun to train, and another precision is another training: give name=NEW"
                if allow_precision
                else "it changes the result of training: --allow-precision takes it"
            )
            self._say(f"{fastest} was faster, but {why}")
        self._write(best, dry_run=dry_run)
        return best

    def _write(self, best: Setting, *, dry_run: bool) -> None:
        """The keys that differ, into the configuration; the file as it was stays beside it."""
        now = self.current.keys()
        keys = {key: value for key, value in best.keys().items() if value != now[key]}
        if not keys:
            self._say("The configuration stays: nothing was faster by more than the spread")
            return
        words = " ".join(f"{key}={str(value).lower()}" for key, value in keys.items())
        if dry_run:
            self._say(f"Would write into {self.file}: {words}")
            return
        changed = set_keys(self.file.read_text(), keys, str(self.file))
        backup = self.file.with_name(f"{self.file.name}.before-tune")
        shutil.copyfile(self.file, backup)
        write_atomically(self.file, changed)
        self._say(f"Wrote into {self.file}: {words} (before: {backup})")
        if best.precision != self.current.precision:
            self._say(
                f"precision={best.precision} changes the result of training; compare the metrics with float32"
            )

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
