"""What generation asks of constants by which networks scale their inputs (``data.curation``)."""

from typing import Any, Protocol

from hpctrain.data.columns import Columns


class Scale(Protocol):
    """Constants of the train split that every split shares."""

    def add(self, columns: Columns) -> None:
        """See events of the train split, in their order. However they are cut into pieces, the constants are the same."""
        ...

    def constants(self) -> dict[str, Any]: ...
