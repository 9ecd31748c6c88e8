"""The prompts of an experiment: sources sampled by category with a fixed seed, near-duplicates of others left out."""

from collections.abc import Sequence

from ripcurrent.data import count_near_duplicates
from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import Prompt, load_prompts, stratified
from ripcurrent.experiment._config import PromptSource


class PromptRecord(PromptSource):
    """One source of prompts as it was read: how many were taken, and how many of them repeat another one."""

    name: str
    sha256: str
    taken: int
    near_duplicates: int = 0
    notes: tuple[str, ...] = ()


def gather_prompts(sources: Sequence[PromptSource]) -> tuple[list[Prompt], list[PromptRecord]]:
    """All prompts of an experiment, and a record of each source.

    Refuses a source that cannot be read or has nothing left, and prompts that ask nothing harmful.
    """
    prompts, taken = list[Prompt](), set[tuple[str, str]]()
    records = []
    for source in sources:
        loaded = load_prompts(source.source, axis=source.axis or "harmful")
        pool = [prompt for prompt in loaded.prompts if source.axis in (None, prompt.axis)]
        # a text that an earlier source has already would count twice
        fresh = [prompt for prompt in pool if (prompt.text, prompt.axis) not in taken]
        chosen = stratified(fresh, source.limit)
        if not chosen:
            axis = f" on the axis {source.axis}" if source.axis else ""
            hint = "Check its axis, and whether an earlier source asks the same."
            raise RipcurrentError(f"Nothing is left of the prompts {source.source}{axis}.", hint)
        taken |= {(prompt.text, prompt.axis) for prompt in chosen}
        prompts += chosen
        records.append(
            PromptRecord(
                **source.model_dump(),
                name=loaded.name,
                sha256=loaded.sha256,
                taken=len(chosen),
                near_duplicates=count_near_duplicates([prompt.text for prompt in chosen]),
                notes=tuple(loaded.notes),
            )
        )
    if not any(prompt.axis == "harmful" for prompt in prompts):
        message = "None of the prompts is on the axis harmful, and it is on harmful requests that arms are compared."
        hint = "Add a source to prompts, such as builtin:harmful, or say of a file of yours: axis: harmful."
        raise RipcurrentError(message, hint)
    return prompts, records
