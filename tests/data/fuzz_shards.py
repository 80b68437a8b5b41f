"""Damages a dataset in one way after the other and reads it: what `test_fuzz.py` starts as a process of its own.

    python tests/data/fuzz_shards.py DIRECTORY COMPRESSION SEED ROUNDS

Every round prints what it is about to do, so that a crash of the interpreter names its cause. It ends with exit code
0 when each round gave the very events written or one ``UserError`` that names the file.
"""

import faulthandler
import json
import signal
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from hpctrain.data.columns import Columns, RaggedRows, SparseRows
from hpctrain.data.schema import DenseField, RaggedField, SparseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError

EVENTS, SECONDS = 150, 60
FIELDS = {
    "image": SparseField(shape=(2, 8, 8)),
    "label": DenseField(dtype="int64"),
    "flag": DenseField(dtype="bool"),
    "hits": RaggedField(shape=(2,)),
}


def content() -> Columns:
    rng = np.random.default_rng(1)
    shape = (EVENTS, 2, 8, 8)
    return {
        "image": SparseRows.from_dense((rng.random(shape) * (rng.random(shape) < 0.05)).astype(np.float32)),
        "label": np.arange(EVENTS),
        "flag": np.arange(EVENTS) % 2 == 0,
        "hits": RaggedRows.from_lists([rng.random((n, 2)) for n in rng.integers(0, 3, EVENTS)], (2,)),
    }


def arrays(columns: Columns) -> list[tuple[str, str, bytes]]:
    """Every array as it is, whatever order the fields have."""
    found = []
    for name, values in sorted(columns.items()):
        parts = [values] if isinstance(values, np.ndarray) else vars(values).values()
        found += [(name, f"{array.dtype}{array.shape}", array.tobytes()) for array in parts]
    return found


def damage(rng: np.random.Generator, whole: bytes) -> tuple[str, bytes]:
    """One of the ways in which bytes change, most of them of the same length."""
    kind = rng.choice(["bit", "bits", "byte", "word", "zeros", "shift", "copy", "cut", "grown"])
    new = bytearray(whole)
    place, size = int(rng.integers(len(new))), int(rng.integers(1, 64))
    if kind in {"bit", "bits"}:
        for at in [place] if kind == "bit" else rng.integers(0, len(new), 8).tolist():
            new[at] ^= 1 << int(rng.integers(8))
    elif kind == "byte":
        new[place] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
    elif kind == "word":
        word = int(
            rng.choice(np.array([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, len(new)], dtype=np.uint64))
        )
        new[place : place + 8] = word.to_bytes(8, "little")[: len(new) - place]
    elif kind == "zeros":
        new[place : place + size] = bytes(len(new[place : place + size]))
    elif kind == "shift":
        new = new[:place] + new[place + 1 :] + bytes(1)
    elif kind == "copy":
        other = int(rng.integers(len(new)))
        piece = new[other : other + size][: len(new) - place]
        new[place : place + len(piece)] = piece
    elif kind == "cut":
        new = new[:place]
    else:
        new += bytes(size)
    return f"{kind} at {place}", bytes(new)


def main() -> None:
    faulthandler.enable()
    folder, compression, seed, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with ShardWriter(folder, FIELDS, compression=compression, events_per_shard=128) as writer:  # type: ignore[arg-type]
        writer.append(content())
    expected = arrays(content())
    originals = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    rng = np.random.default_rng(seed)
    seen: Counter[str] = Counter()
    for number in range(rounds):
        path = list(originals)[int(rng.integers(len(originals)))]
        what, new = damage(rng, originals[path])
        print(number, path.name, what, flush=True)
        path.write_bytes(new)
        description = folder / "dataset.json"
        if path != description and rng.random() < 0.5:  # a dataset.json that fits the file that was cut
            document = json.loads(originals[description])
            next(s for s in document["shards"] if s["file"] == path.name)["bytes"] = len(new)
            description.write_text(json.dumps(document))
        signal.alarm(SECONDS)  # a hang ends the process
        try:
            dataset = ShardDataset.open(folder)
            got = arrays(dataset.read(np.arange(dataset.events)))
        except UserError as error:
            if str(folder) not in error.message or not error.hint:
                raise AssertionError("file or cure is not named") from error
            seen["refused"] += 1
        else:
            assert got == expected, "other events were read"
            seen["read"] += 1
        signal.alarm(0)
        for path, whole in originals.items():
            path.write_bytes(whole)
    print(dict(seen))
    assert set(seen) == {"refused", "read"}


if __name__ == "__main__":
    main()
