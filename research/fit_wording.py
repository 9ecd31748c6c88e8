"""Fit the weights of the judge ``wording``, and measure it on each model's answers with the weights of the others.

    python -m research.fit_wording answers/*.csv --out judges_left_out.csv --weights wording.json

Each file has one model's answers with people's labels, as ``judges validate`` reads them. The files may share requests;
the weights see answers alone. The penalty was not searched for: from 1 to 100 the pooled κ is 0.86 to 0.87.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from research.tables import write_table
from ripcurrent.data import read_rows
from ripcurrent.evaluate import validate_judges
from ripcurrent.evaluate.judges import KEYWORD, PREFIX, features, wording_judge

PENALTY = 3.0
Floats = npt.NDArray[np.float64]


def fitted(values: Floats, refused: npt.NDArray[np.bool_], penalty: float) -> Floats:
    """Weights and constant of a logistic regression with a squared penalty on the weights."""
    sign = np.where(refused, 1.0, -1.0)

    def loss(w: Floats) -> tuple[float, Floats]:
        margin = sign * (values @ w[:-1] + w[-1])
        slope = -sign / (1 + np.exp(np.clip(margin, -50, 50)))
        value = np.logaddexp(0, -margin).sum() + penalty / 2 * w[:-1] @ w[:-1]
        return float(value), np.append(values.T @ slope + penalty * w[:-1], slope.sum())

    found: Floats = minimize(loss, np.zeros(values.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return found


def weights_of(files: list[Path]) -> dict[str, float]:
    """Weights by name, fitted to the answers of some files; a partial refusal counts as one."""
    rows = [row.record for path in files for row in read_rows(path, format="prompt-completion")]
    given = [features(str(row["completion"])) for row in rows]
    refused = np.asarray([not str(row["final_label"]).startswith("1") for row in rows])
    found = fitted(np.asarray([list(one.values()) for one in given]), refused, PENALTY)
    return {name: round(float(value), 4) for name, value in zip([*given[0], "constant"], found, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    given = parser.parse_args()
    lines: list[dict[str, object]] = []
    for path in given.files:
        left_out = wording_judge(weights_of([other for other in given.files if other != path]))
        for judge in (KEYWORD, PREFIX, left_out):
            found = validate_judges([path], [judge])[0].pooled
            complied, refused = (found.confusion[name] for name in ("compliance", "refusal"))
            lines.append(
                {
                    "answers": path.stem,
                    "judge": judge.name,
                    "n": found.n,
                    "kappa": round(found.kappa, 3),
                    "low": round(found.kappa_low, 3),
                    "high": round(found.kappa_high, 3),
                    "answered_called_refusal": complied["refusal"],
                    "answered": sum(complied.values()),
                    "refusal_called_answered": refused["compliance"],
                    "refusals": sum(refused.values()),
                    "partial_called_answered": found.confusion["partial"]["compliance"],
                    "partial": sum(found.confusion["partial"].values()),
                }
            )
    write_table(lines, given.out)
    given.weights.write_text(json.dumps(weights_of(given.files), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
