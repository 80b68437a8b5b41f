"""Reading a ROOT tree in pieces through uproot, with errors that name file, branch and cure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from hpctrain import registry
from hpctrain.convert.hdf5_files import plain
from hpctrain.convert.one_file import DAMAGED
from hpctrain.data.columns import Array, RaggedRows
from hpctrain.errors import UserError

ROOT_SIGNATURE = b"root"


class RootTree:
    """A tree of a ROOT file. Use in ``with``.

    Branches are found by their last name, so that ``Tower.ET`` means ``Tower/Tower.ET`` of a split
    ``TClonesArray`` as well as a flat branch of that name; ``Jet.Tau`` also means ``Jet.Tau[5]``.
    """

    def __init__(self, path: Path, tree: str) -> None:
        import uproot

        self.path = path
        with path.open("rb") as stream:
            if stream.read(4) != ROOT_SIGNATURE:
                raise UserError(f"{path} is not a ROOT file", hint="Name the format that it has")
        try:
            # Without caches: what was read once is not read again.
            self._file = uproot.open(path, array_cache=None, object_cache=None)
            names = {key.split(";")[0]: kind for key, kind in self._file.classnames().items()}
            whole = int(self._file.file.fEND)
        except Exception as error:  # uproot raises anything on damaged files
            raise self._unreadable(error) from error
        if path.stat().st_size < whole:
            self._file.close()
            raise UserError(f"{path} has {path.stat().st_size} of its {whole} bytes", hint=DAMAGED)
        if "TTree" not in names.get(tree, ""):
            self._file.close()
            raise _no_tree(path, tree, names)
        try:
            self._tree = self._file[tree]
            self.entries = int(self._tree.num_entries)
            self._keys: dict[str, str] = {}
            every = self._tree.keys()  # with those inside split branches, which iteration leaves out
            for key in every:
                short = key.rsplit("/", 1)[-1]
                self._keys.setdefault(short, key)
                self._keys.setdefault(short.split("[")[0], key)
        except Exception as error:
            self._file.close()
            raise self._unreadable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def names(self) -> list[str]:
        """Names of all branches."""
        return list(self._keys)

    def has(self, *names: str) -> bool:
        """Whether the tree has all these branches."""
        return all(name in self._keys for name in names)

    def require(self, names: Iterable[str], hint: str = "") -> None:
        """Raise ``UserError`` naming every branch that is missing, with near names."""
        missing = [name for name in dict.fromkeys(names) if name not in self._keys]
        if not missing:
            return
        near = [n for name in missing if (n := registry.nearest(name, self._keys, "")).startswith("did")][:1]
        groups = sorted({name.replace(".", "_").split("_")[0] for name in self._keys})
        shown = ", ".join(groups[:20]) + (" …" if len(groups) > 20 else "")
        raise UserError(
            f"{self.path}: tree '{self._tree.name}' has no branch {', '.join(missing)}",
            hint=" ".join([*near, f"It has branches of {shown}.", hint]).strip(),
        )

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, Array | RaggedRows]:
        """Entries ``start`` to ``stop`` of branches of numbers, by the names given.

        A branch of one number (or fixed array) an entry is an array (n, …), one of lists ``RaggedRows``.
        """
        self.require(names)
        found: dict[str, Array | RaggedRows] = {}
        for name in dict.fromkeys(names):
            array = self.awkward(name, start, stop)
            try:
                found[name] = rows_of(array)
            except TypeError as error:
                raise UserError(
                    f"{self.path}: branch {name} holds {array.type.content}, not numbers or lists of them",
                    hint="Choose another branch",
                ) from error
        return found

    def ragged(self, names: Sequence[str], start: int, stop: int) -> dict[str, RaggedRows]:
        """``read`` of branches that are lists. Raises ``UserError`` when one is not."""
        found: dict[str, RaggedRows] = {}
        for name, rows in self.read(names, start, stop).items():
            if not isinstance(rows, RaggedRows):
                raise UserError(
                    f"{self.path}: branch {name} is no list in each event", hint="Choose another branch"
                )
            found[name] = rows
        return found

    def number(self, name: str, start: int, stop: int) -> Array:
        """(n,) of a branch with one number an event, or of lists that all have one item (``Event.Weight``)."""
        rows = self.read([name], start, stop)[name]
        values = rows
        if isinstance(rows, RaggedRows):
            if (rows.counts != 1).any():
                event = start + int(np.flatnonzero(rows.counts != 1)[0])
                raise UserError(
                    f"{self.path}: branch {name} has {int(rows.counts[event - start])} numbers in event {event}, "
                    "one is wanted"
                )
            values = rows.values
        if not isinstance(values, np.ndarray) or values.ndim != 1:
            raise UserError(f"{self.path}: branch {name} has several numbers an event, one is wanted")
        return values

    def numbers(self, name: str | None) -> Iterator[Array]:
        """``number`` of all entries, in pieces; ones when ``name`` is None."""
        for start, stop in entry_ranges(self.entries, 100_000):
            yield np.ones(stop - start) if name is None else self.number(name, start, stop)

    def awkward(self, name: str, start: int, stop: int) -> Any:
        """Entries of a branch as uproot gives them."""
        self.require([name])
        try:
            return self._tree[self._keys[name]].array(entry_start=start, entry_stop=stop, library="ak")
        except Exception as error:
            raise self._unreadable(error, name, start, stop) from error

    def _unreadable(self, error: Exception, name: str = "", start: int = 0, stop: int = 0) -> UserError:
        where = f": branch {name}, events {start} to {stop}," if name else ""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = f"{type(error).__name__}: {lines[0].rstrip('.,:') if lines else ''}"
        return UserError(f"{self.path}{where} cannot be read: {text[:160]}", hint=DAMAGED)


def _no_tree(path: Path, tree: str, kinds: Mapping[str, str]) -> UserError:
    """The file has objects of these kinds by name, and no tree of that name."""
    if "RNTuple" in kinds.get(tree, ""):
        return UserError(
            f"{path}: '{tree}' is an RNTuple, and trees are read",
            hint="ROOT's RDataFrame.Snapshot and uproot's mktree write it as a tree",
        )
    trees = [name for name, kind in kinds.items() if kind == "TTree"]
    if not trees:
        return UserError(f"{path} has no tree '{tree}', nor any other", hint="Is it the right file?")
    return UserError(
        f"{path} has no tree '{tree}'", hint=f"{registry.nearest(tree, trees, 'it has')} (tree=NAME chooses)"
    )


def rows_of(array: Any) -> Array | RaggedRows:
    """An awkward array of numbers, or of lists of numbers (or of arrays of a fixed shape), as rows.

    Raises ``TypeError`` for anything else.
    """
    import awkward as ak

    layout = ak.to_packed(array).layout
    if layout.is_list and not layout.is_regular:
        offsets = np.asarray(layout.to_ListOffsetArray64(True).offsets.data, dtype=np.int64)
        content = layout.to_ListOffsetArray64(True).content
        if content.is_list and not content.is_regular and len(content) == 0:
            content = content.content
        return RaggedRows(offsets, _numbers(content))
    return _numbers(layout)


def _numbers(layout: Any) -> Array:
    import awkward as ak

    if (layout.is_list and not layout.is_regular) or layout.is_record or layout.is_union or layout.is_option:
        raise TypeError
    values = ak.to_numpy(layout)
    if values.dtype.kind not in "fiub":
        raise TypeError
    return plain(np.asarray(values))


def entry_ranges(entries: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) through all entries.

    >>> list(entry_ranges(5, 2))
    [(0, 2), (2, 4), (4, 5)]
    """
    for start in range(0, entries, size):
        yield start, min(start + size, entries)
