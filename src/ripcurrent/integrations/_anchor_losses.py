"""The losses of a scan's anchors under the weights of now, measured so that a training does not notice."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ripcurrent.anchors import load_anchors
from ripcurrent.data import encode_anchor
from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import ANCHOR_TOKEN_BUDGET, make_batch, plan_batches
from ripcurrent.scan import ScanRun


class AnchorLosses:
    """Mean losses of the harmful and the safe openings; refuses a scan that predicts none, or of other anchors."""

    def __init__(self, run: ScanRun, tokenizer: Any) -> None:
        options, about = run.options, run.manifest.anchors
        if about.measurements is None or about.measurements.norms is None:
            raise RipcurrentError(f"The scan {run.folder} has no gradients.", "Scan with --signals all or gradient.")
        anchor_set = load_anchors(options.anchors)
        how = {"max_tokens": max(options.max_tokens, ANCHOR_TOKEN_BUDGET), "first_tokens": options.anchor_tokens}
        self._rows = [encode_anchor(one.messages, tokenizer, **how) for one in anchor_set.anchors]
        if anchor_set.sha256 != about.sha256 or any(row.status != "ok" for row in self._rows):
            what = f"The anchors {options.anchors} are not as the scan {run.folder} had them."
            raise RipcurrentError(what, "Scan again, with the trainer's tokenizer and chat template.")
        norms, sets = np.array(about.measurements.norms), about.measurements.by_set()
        safe = [place for name, places in sets.items() if name != "harmful" for place in places]
        self.mean_norms = norms[sets["harmful"]].mean(), norms[safe].mean()
        """Of the harmful anchors' gradients, and of the safe ones'."""
        self._weights = np.zeros((2, len(norms)))
        for name, places in sets.items():
            side, of = (0, 1) if name == "harmful" else (1, about.measurements.safe_sets)
            # the scan's prediction is of losses weighted so (methods.md, section 2)
            self._weights[side, places] = self.mean_norms[side] / norms[places] / (len(places) * of)

    @torch.no_grad()
    def measure(self, model: Any) -> npt.NDArray[np.float64]:
        """Losses of the harmful and the safe openings, nats a token, each anchor weighted as in the prediction."""
        device, losses = model.get_input_embeddings().weight.device, np.zeros(len(self._rows))
        modes = [(module, module.training) for module in model.modules()]
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            model.eval()
            for places in plan_batches([len(row.tokens) for row in self._rows], ANCHOR_TOKEN_BUDGET):
                batch = make_batch([self._rows[place] for place in places], device)
                seen = torch.arange(batch.ids.shape[1], device=device) < batch.lengths[:, None]
                logits = model(input_ids=batch.ids, attention_mask=seen.long(), use_cache=False).logits
                row, token = batch.loss_mask[:, 1:].nonzero(as_tuple=True)
                wanted = batch.ids[row, token + 1].to(logits.device)
                found = torch.nn.functional.cross_entropy(logits[row, token].float(), wanted, reduction="none")
                summed = np.bincount(row.cpu().numpy(), found.cpu().double().numpy(), len(places))
                losses[places] = summed / np.bincount(row.cpu().numpy(), minlength=len(places))
        for module, mode in modes:
            module.training = mode
        return np.asarray(self._weights @ losses)
