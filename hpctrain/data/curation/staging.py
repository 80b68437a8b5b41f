"""Shards copied to node-local storage: once per node, checked, and gone on with after a stop.

The copy is an ordinary dataset in a folder named after the ``dataset.json`` it came with. Two jobs may stage
into one folder: shards arrive under names of their own and are renamed into place whole, ``dataset.json`` last.
"""

import contextlib
import hashlib
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from hpctrain.config import Experiment
from hpctrain.data.curation.shard_copy import Progress, ShardCopy
from hpctrain.data.schema import DatasetInfo
from hpctrain.data.shards import ShardDataset
from hpctrain.data.together import together
from hpctrain.errors import UserError
from hpctrain.parallel.communicator import Communicator
from hpctrain.run import RunDirectory
from hpctrain.site import known_sites, load_site
from hpctrain.track import Tracker

LONGEST_PAUSE = 1.0
"""Seconds between two looks of waiting ranks at whether all copies are made."""
SITE = "site"
"""Among the folders to try: those of the site. A folder of that name is ``./site``."""


def folders(experiment: Experiment) -> tuple[str, ...]:
    """What ``data.stage`` of an experiment says to try, with the folders that its site has.

    Empty where shards are to be read where they are, or the site has no such folder. Raises ``UserError`` when
    the site is not known, or none is named and one is asked for.
    """
    site = load_site(experiment.site) if experiment.site else None
    words = _words(experiment)
    if SITE in words and site is None:
        raise UserError(
            "data.stage asks for the folders of the site, and no site is named",
            hint=f"Give site=NAME ({', '.join(sorted(known_sites()))}) or site=FILE.yaml",
        )
    own = site.node_local if site else ()
    return tuple(folder for word in words for folder in (own if word == SITE else (word,)))


def staged(run: RunDirectory, split: str, communicator: Communicator, tracker: Tracker) -> Path:
    """Where a rank reads a split of a run: the copy on its node where ``data.stage`` wants one, else the original.

    Every rank calls this; the tracker shows the copy on the first one's node. Raises ``UserError`` (see ``stage``).
    """
    directory = run.data / split
    if not _words(run.experiment):
        return directory
    with together(communicator):
        # One rank reads the site's file: it may be edited meanwhile, and all must do the same.
        candidates = folders(run.experiment) if communicator.rank == 0 else ()
    candidates = communicator.gather(candidates)[0]
    if not candidates:
        text = f"the site {run.experiment.site} has no node-local folder: {directory} is read where it is"
        tracker.warn(text)
        return directory
    started = time.monotonic()
    place = stage(
        directory,
        candidates,
        communicator,
        lambda done, total: tracker.progress(
            round(done / 1e6, 1), round(total / 1e6, 1), f"MB of {split} staged"
        ),
    )
    tracker.log("staged", split=split, directory=str(place), wall_s=round(time.monotonic() - started, 3))
    return place


def _words(experiment: Experiment) -> tuple[str, ...]:
    """``data.stage``; another way of reading data may have no such key."""
    words: tuple[str, ...] = getattr(experiment.data, "stage", ())
    return words


def stage(
    directory: Path,
    candidates: Sequence[str],
    communicator: Communicator,
    progress: Progress | None = None,
) -> Path:
    """Copy the dataset in ``directory`` to the first of ``candidates`` that can be used; returns where it is then.

    Candidates are folders, which may name environment variables. Every rank calls this. Of the ranks that see
    the same folder the first copies and the others wait: the ranks of a node, or all of them where the folder is
    a burst buffer of the whole job. Shards that are there already, byte for byte, are not copied again.
    ``progress`` is called on the ranks that copy.

    Raises ``UserError``, on all ranks when any fails: no folder, no room, a source shard that is not what was
    written, a disk that fills up.
    """
    token = communicator.gather(uuid.uuid4().hex)[0]
    with together(communicator):
        info = ShardDataset.open(directory).info  # no shard is missing or cut
        content = (directory / "dataset.json").read_bytes()
        target = _target(directory, content, candidates)
        mark = target / f".{token}.{communicator.rank}"
        mark.touch()
    seen = [int(path.suffix[1:]) for path in target.glob(f".{token}.*")]
    communicator.barrier()  # all have looked
    with contextlib.suppress(OSError):
        mark.unlink()
    copy = ShardCopy(directory, info, content, target, progress)
    copies = communicator.rank == min(seen, default=communicator.rank)
    with _background(copy) if copies else contextlib.nullcontext() as work:
        pause = 0.01
        # Not one long wait in a collective operation: that would burn the cores, and Gloo would give up on it.
        while not all(communicator.gather(work is None or work.done())):
            time.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)
        with together(communicator):
            if work is not None:
                work.result()
    with together(communicator):
        DatasetInfo.read(target)
    return target


def _target(directory: Path, content: bytes, candidates: Sequence[str]) -> Path:
    """The dataset's own folder in the first candidate that can be written. Raises ``UserError`` naming them all."""
    name = f"hpctrain-{os.getuid()}-{directory.resolve().name}-{hashlib.sha256(content).hexdigest()[:16]}"
    refused = []
    for candidate in candidates:
        names = re.findall(r"\$\{?(\w+)", candidate)
        unset = [name for name in names if not os.environ.get(name)]
        if unset or not candidate:
            refused.append(f"{candidate} ({', '.join(unset)} is not set)" if unset else "'' (empty)")
            continue
        folder = Path(os.path.expanduser(os.path.expandvars(candidate)))  # noqa: PTH111 - leaves an unknown ~user as it is
        if not os.path.isdir(folder):  # noqa: PTH112 - never raises
            refused.append(f"{candidate} ({folder} is not a folder)")
            continue
        if os.path.exists(folder / "dataset.json"):  # noqa: PTH110 - never raises
            refused.append(f"{candidate} ({folder} is a dataset)")
            continue
        try:
            (folder / name).mkdir(exist_ok=True)
            with (folder / name / ".lock").open("a"):
                pass
        except OSError as error:
            refused.append(f"{candidate} ({folder}: {error.strerror})")
            continue
        return folder / name
    raise UserError(
        f"no folder to stage {directory} to on {socket.gethostname()}: {', '.join(refused) or 'none is named'}",
        hint="Name one that is there (data.stage, --to), or leave data.stage empty to read the shards where they are",
    )


@contextlib.contextmanager
def _background(copy: ShardCopy) -> Iterator[Future[None]]:
    """The copy, being made by a thread; it is given up when the block is left early."""
    with ThreadPoolExecutor(1, thread_name_prefix="staging") as pool:
        try:
            yield pool.submit(copy.make)
        finally:
            copy.stopped.set()
