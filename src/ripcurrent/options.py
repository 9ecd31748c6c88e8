"""The options of a verb: declared once as fields, with their help, and validated where they are declared."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from ripcurrent.errors import RipcurrentError


class Options(BaseModel):
    """Options of a verb. A field's docstring is its help; the command line is made from the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def resolve(cls, given: Self | None = None, changes: Mapping[str, object] | None = None) -> Self:
        """The options given, or the defaults, with single ones changed by name; RipcurrentError for impossible ones."""
        try:
            return cls.model_validate({**(given.model_dump(exclude_unset=True) if given else {}), **(changes or {})})
        except ValidationError as error:
            raise _impossible(error.errors()[0], tuple(cls.model_fields)) from None


def did_you_mean(name: str, known: tuple[str, ...]) -> str:
    """``" Did you mean X?"`` for the nearest of the known names, or nothing."""
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {near[0]}?" if near else ""


def flag(name: str) -> str:
    """An option's name on the command line."""
    return "--" + name.replace("_", "-")


def _impossible(error: ErrorDetails, known: tuple[str, ...]) -> RipcurrentError:
    name = str(error["loc"][0]) if error["loc"] else ""
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if error["type"] == "extra_forbidden":
        return RipcurrentError(
            f"There is no option {flag(name)}.{did_you_mean(name, known)}", f"Options: {', '.join(known)}."
        )
    if not name:
        return RipcurrentError(f"{message[:1].upper()}{message[1:]}.", "See --help.")
    if error["type"] == "value_error":
        wanted = f"{message[:1].upper()}{message[1:]}."
    else:
        choices = tuple(re.findall(r"'([^']+)'", message)) if error["type"] == "literal_error" else ()
        wanted = f"It must be {message.partition(', unable')[0]}.{did_you_mean(str(error['input']), choices)}"
    return RipcurrentError(f"{flag(name)} {error['input']} is not possible.", wanted)
