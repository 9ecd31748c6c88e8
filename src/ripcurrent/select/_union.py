"""The paper's own selection: the union over the harmful anchors of each anchor's nearest rows."""

import numpy as np
import numpy.typing as npt

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.scan import RowNumbers, ScanRun
from ripcurrent.select._rules import checked_count
from ripcurrent.select._types import Selection

UNION_COLUMN = "representation_harmful"
"""What a union is ordered and shown by; the nearness that chose it is the cosine to single anchors."""


def union(run: ScanRun, k: int) -> Selection:
    """The union over the harmful anchors of each anchor's ``k`` rows of largest representation cosine.

    He, Xia and Henderson (COLM 2024), selection by representation matching in the paper's notation; the released code
    takes the largest maximum instead, which is :func:`top` by ``representation_harmful``. Memory does not grow with
    the rows.

    Args:
        run: The scan.
        k: Rows per anchor, so between ``k`` and ``k`` times the anchors come back.

    Returns:
        The rows by ``representation_harmful``, riskiest first; ties, there and for a place among an anchor's rows, go
        to the lower row number.

    Raises:
        RipcurrentError: No row has a representation.
    """
    checked_count(k)
    harmful = [place for place, (name, _) in enumerate(run.manifest.anchors.order) if name == "harmful"]
    best_rows: list[RowNumbers] = [np.empty(0, dtype=np.int64) for _ in harmful]
    best_cosines: list[npt.NDArray[np.float32]] = [np.empty(0, dtype=np.float32) for _ in harmful]
    for all_rows, all_cosines in run.cosines():
        cosines = all_cosines[:, harmful]
        keep = run.scored[all_rows] & np.isfinite(cosines).all(axis=1)
        rows, values = all_rows[keep], cosines[keep]
        for place in range(len(harmful)):
            candidates = np.concatenate([best_rows[place], rows])
            nearness = np.concatenate([best_cosines[place], values[:, place]])
            order = np.lexsort((candidates, -nearness))[:k]
            best_rows[place], best_cosines[place] = candidates[order], nearness[order]
    if not harmful or len(best_rows[0]) == 0:
        raise RipcurrentError(
            f"{run.folder} has no cosines of rows to the harmful anchors' representations.",
            "Scan with --signals all or --signals representation first.",
            code=ExitCode.NOT_MEASURED,
        )
    chosen = np.unique(np.concatenate(best_rows))
    scores = run.scores(UNION_COLUMN)[chosen]
    order = np.argsort(-scores, kind="stable")
    got = len(best_rows[0])
    return Selection(
        name=f"union-{k}",
        kind="union",
        rule=f"the union over {len(harmful)} harmful anchors of the {k} rows nearest each by representation cosine",
        column=UNION_COLUMN,
        indices=tuple(chosen[order].tolist()),
        scores=tuple(scores[order].tolist()),
        shortfall=k - got,
        notes=(
            f"{len(harmful) * got} places, {len(chosen)} distinct rows",
            *((f"only {got} rows have a representation",) if got < k else ()),
        ),
    )
