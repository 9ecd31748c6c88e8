"""The one error a user meets: what is wrong, where, and what to do now."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    USAGE = 1
    """A usage or input error: the user can mend it."""
    NOT_MEASURED = 2
    """The input was fine but nothing could be measured."""
    GATE_FAILED = 3
    """A gate the user asked for was failed."""
    NOT_ENOUGH_EVIDENCE = 4
    """A completed experiment that cannot decide."""


class RipcurrentError(Exception):
    """A mistake or a limit that the user can act on; shown without a traceback.

    ``message`` names what is wrong and where (file, row, module); ``hint`` says what to do now.
    """

    def __init__(self, message: str, hint: str = "", *, code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class DatasetChangedError(RipcurrentError):
    """Rows were read that are not those that were counted and hashed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "It changed while it was scanned: leave it alone, and scan it into another --out.")


class NothingToJudgeError(RipcurrentError):
    """A model's answers are none: thoughts that the limit of new tokens cut."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint, code=ExitCode.NOT_MEASURED)


class MissingExtraError(RipcurrentError):
    """An optional dependency is not installed; the hint is the line that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed, and this needs it.", f'Install it with: pip install "ripcurrent[{extra}]"'
        )
