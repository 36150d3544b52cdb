"""HTML pages that need nothing but themselves: templates of this package, pictures inside."""

import base64
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_TEMPLATES = Environment(
    loader=PackageLoader("vllm_judge.evaluation"),
    autoescape=True,  # texts and file names are strangers'
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> str:
    """A template of the folder `templates`, filled in; strings among the values are escaped."""
    return _TEMPLATES.get_template(template).render(**values)


def picture(draw: Callable[[Path], None]) -> str:
    """The PNG that `draw` writes, as the address of a picture inside the page."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture.png")
        draw(path)
        return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
