"""What a machine or a cluster has, a YAML file each: those that come with hpctrain, and the user's own."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from hpctrain.errors import UserError
from hpctrain.registry import nearest
from hpctrain.section import Section, describe, read_yaml

SHIPPED = Path(__file__).parent / "sites"
"""Sites of the package; ``configs/sites`` of a clone is a link to it."""


class Site(Section):
    """A machine or a cluster."""

    name: str
    """That of its file: ``NAME.yaml``."""
    description: str = ""
    """What and where it is, in a line."""
    node_local: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Folders of a node's own disk, or of a burst buffer that the job is given, the one to try first first; may name
    environment variables that only a job has. Empty: the site has none."""


def load_site(name: str) -> Site:
    """The site called ``name``, or of the YAML file ``name`` where that has a ``/`` or ends in ``.yaml``.

    A site of the user comes before one of the package with the same name. Raises ``UserError``.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        return _read(Path(name).expanduser())
    known = known_sites()
    if name not in known:
        raise UserError(
            f"unknown site '{name}'",
            hint=f"{nearest(name, known, 'known sites are')}; your own go to {user_folder()}",
        )
    return _read(known[name])


def known_sites() -> dict[str, Path]:
    """Name → file of every site that can be called by name."""
    return {path.stem: path for folder in (SHIPPED, user_folder()) for path in sorted(folder.glob("*.yaml"))}


def user_folder() -> Path:
    """Where the user's own sites are: ``~/.config/hpctrain/sites``, or as ``XDG_CONFIG_HOME`` says."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification: a path that is not absolute is as none.
    root = Path(base) if base.startswith("/") else Path(os.path.expanduser("~/.config"))  # noqa: PTH111 - there may be no home
    return root / "hpctrain" / "sites"


def _read(path: Path) -> Site:
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: expected 'key: value' lines, found {type(content).__name__}")
    try:
        site = Site.model_validate(dict(content))
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error)}") from error
    if site.name != path.stem:
        raise UserError(
            f"{path}: the name is '{site.name}', the file's is '{path.stem}'", hint="Make them the same"
        )
    return site
