"""What a long computation tells its caller as it goes."""


class Progress:
    """Receives the steps of a computation and counts of rows, or of what ``unit`` names; this one shows nothing."""

    def step(self, name: str) -> None:
        """A step without a count begins."""

    def start(self, name: str, total: int, unit: str = "rows") -> None:
        """A counted step over ``total`` rows, prompts or answers begins."""

    def rows(self, count: float) -> None:
        """``count`` more rows were computed."""

    def skipped(self, count: int) -> None:
        """``count`` rows were already there."""

    def finish(self) -> None:
        """The counted step ended."""


SilentProgress = Progress
