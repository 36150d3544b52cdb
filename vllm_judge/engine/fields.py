"""Fields more on a dataclass of vLLM's, so that they are carried wherever its own are."""

import dataclasses
from typing import Any


def add_fields(kind: Any, fields: dict[str, Any]) -> None:
    """Adds fields in place, once, by name and type, each None until it is set: msgspec carries a dataclass's declared
    fields only."""
    if fields.keys() <= kind.__dataclass_fields__.keys():
        return
    for field in dataclasses.fields(kind):
        if field.default_factory is not dataclasses.MISSING:
            setattr(kind, field.name, dataclasses.field(default_factory=field.default_factory))
    for name, type_of_field in fields.items():
        kind.__annotations__[name] = type_of_field | None
        setattr(kind, name, None)
    dataclasses.dataclass(kind)
