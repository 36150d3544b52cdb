"""HTML pages that need nothing but themselves: a room's template on top of the common ones, pictures inside."""

import base64
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def render(room: str, template: str, **values: Any) -> str:
    """A template, filled in; strings among the values are escaped.

    The page says by a policy of its own that the browser is to run and apply only what carries `nonce`, a number drawn
    for this page, which no text that it shows can have known, and to fetch nothing.

    Args:
        room: the package in whose folder `templates` it lies; it may build on those of this one.
    """
    templates = Environment(
        loader=ChoiceLoader([PackageLoader(room), PackageLoader(__package__)]),
        autoescape=True,  # texts and file names are strangers'
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template(template).render(nonce=secrets.token_urlsafe(16), **values)


def picture(draw: Callable[[Path], None]) -> str:
    """The PNG that `draw` writes, as the address of a picture inside the page."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture.png")
        draw(path)
        return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
