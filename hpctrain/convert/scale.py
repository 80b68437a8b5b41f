"""Scale constants of converted images: the same to the last bit in whatever pieces they come."""

from __future__ import annotations

from typing import Any

from hpctrain.data.checksums import BLOCK_ROWS
from hpctrain.data.columns import Columns, concatenate, count, part
from hpctrain.data.image_scale import ImageScale
from hpctrain.data.schema import Fields


class SteadyScale:
    """``ImageScale`` of the field ``image``, fed whole blocks; nothing without such a field."""

    def __init__(self, fields: Fields) -> None:
        field = fields.get("image")
        self._wanted = field is not None and field.kind != "ragged"
        self._scale = ImageScale(fields)
        self._pending: list[Columns] = []

    def add(self, columns: Columns) -> None:
        """See more events."""
        if not self._wanted:
            return
        self._pending.append({"image": columns["image"]})
        rows = sum(map(count, self._pending))
        whole = rows // BLOCK_ROWS * BLOCK_ROWS
        if whole:
            joined = concatenate(self._pending)
            self._scale.add(part(joined, 0, whole))
            self._pending = [part(joined, whole, rows)]

    def constants(self) -> dict[str, Any]:
        """For ``dataset.json``, when all events were seen."""
        if self._pending:
            self._scale.add(concatenate(self._pending))
            self._pending = []
        return self._scale.constants()
