"""Training on 1 and 2 ranks, global batch kept and batch of a rank kept, for both engines."""

import argparse
import dataclasses
import tempfile
from pathlib import Path

from benchmarks.machine_line import machine_line
from hpctrain.config import Experiment
from hpctrain.files import write_json
from hpctrain.run import RunDirectory
from hpctrain.scaling.curve import table
from hpctrain.scaling.figure import draw
from hpctrain.scaling.measure import measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "run", type=Path, nargs="?", default=Path("runs/demo"), help="a run that holds shards"
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--output", type=Path, default=Path("scaling/results"))
    options = parser.parse_args()
    if not (options.run / "data" / "train" / "dataset.json").exists():
        print(f"scaling: no shards in {options.run} (make demo writes them); nothing measured")
        return
    line = machine_line()
    print(line)
    for engine in ("mpi", "gloo"):
        for weak in (False, True):
            name = f"{engine}-{'weak' if weak else 'strong'}"
            base = RunDirectory.open(options.run)
            settings = base.experiment.model_dump(mode="json")
            # One thread a rank at every size, or one rank would already use the whole machine.
            settings["launch"] |= {"engine": {"kind": engine}, "threads": 1}
            base.__dict__["experiment"] = Experiment.from_mapping(settings)
            with tempfile.TemporaryDirectory() as scratch:
                rows = table(measure(base, options.ranks, Path(scratch), weak=weak), weak=weak)
            print(f"{name}: " + "; ".join(
                f"{r.ranks} ranks {r.samples_per_second:,.0f}/s, efficiency {r.efficiency:.2f} ± {r.efficiency_error:.2f}"
                for r in rows
            ))  # fmt: skip
            record = {"machine": line, "name": name, "rows": [dataclasses.asdict(row) for row in rows]}
            write_json(options.output / f"{name}.json", record)
            draw(rows, options.output / f"{name}.png", title=f"{name}: {options.run.name}, one thread a rank")


if __name__ == "__main__":
    main()
