"""How likely an answer is to begin as a refusal: the log-odds of a list of openings, in one pass over all requests."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from ripcurrent.data import Message, encode_anchor
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.gradients import find_logit_transform
from ripcurrent.models import ChatModel

FloatArray = npt.NDArray[np.float64]

OPENINGS: tuple[str, ...] = (
    "Sorry",
    "I'm sorry",
    "I’m sorry",
    "I am sorry",
    "My apologies",
    "I apologize",
    "I apologise",
    "I can't",
    "I can’t",
    "I cannot",
    "I can not",
    "I won't",
    "I won’t",
    "I will not",
    "I don't",
    "I do not",
    "I'm not",
    "I am not",
    "I'm unable",
    "I am unable",
    "I'm afraid",
    "I am afraid",
    "I must decline",
    "I must refuse",
    "I have to decline",
    "No,",
    "No.",
    "Unfortunately",
    "Regrettably",
    "As an AI",
)
"""Beginnings of a refusal in English. Each is long enough not to begin an answer that helps as well, as ``I`` would."""

TOKENS_AT_ONCE = 4096
"""Padded tokens of a pass."""
AGREEMENT = 0.3
"""Largest difference, in nats, between the packed pass and plain ones that bfloat16 explains."""


@dataclass(frozen=True, slots=True)
class OpeningTree:
    """Openings as a tree of tokens: node 0 stands for the request alone, every other for a beginning of an opening."""

    tokens: tuple[int, ...]
    """Token of each node but node 0."""
    parents: tuple[int, ...]
    """Parent of each node but node 0; always an earlier one."""
    ends: tuple[tuple[int, int], ...]
    """Every opening's last token, as the node before it and the token."""

    @property
    def nodes(self) -> int:
        """Number of nodes, node 0 included."""
        return len(self.tokens) + 1

    def path(self, node: int) -> tuple[int, ...]:
        """Nodes from below node 0 down to this one; empty for node 0."""
        return () if node == 0 else (*self.path(self.parents[node - 1]), node)

    def children(self, node: int) -> list[int]:
        """Tokens by which an opening goes on, or ends, after this node."""
        inner = [token for token, parent in zip(self.tokens, self.parents, strict=True) if parent == node]
        return inner + [token for parent, token in self.ends if parent == node]


def build_tree(openings: Sequence[Sequence[int]]) -> OpeningTree:
    """Openings, each a sequence of tokens, as a tree. One that begins with another is that other's business."""
    known = {tuple(opening) for opening in openings if len(opening)}
    shortest = sorted(o for o in known if not any(o[:length] in known for length in range(1, len(o))))
    places: dict[tuple[int, ...], int] = {(): 0}
    tokens: list[int] = []
    parents: list[int] = []
    for opening in shortest:
        for length in range(1, len(opening)):
            if opening[:length] not in places:
                tokens.append(opening[length - 1])
                parents.append(places[opening[: length - 1]])
                places[opening[:length]] = len(tokens)
    ends = tuple((places[opening[:-1]], opening[-1]) for opening in shortest)
    return OpeningTree(tuple(tokens), tuple(parents), ends)


@dataclass(frozen=True, slots=True)
class OpenedRequests:
    """Requests and openings as tokens."""

    requests: tuple[tuple[int, ...], ...]
    """Each request in the chat template, up to where the answer begins."""
    tree: OpeningTree
    """The openings."""


def open_requests(requests: Sequence[str], openings: Sequence[str], chat_model: ChatModel) -> OpenedRequests:
    """Requests and openings as tokens, rendered as conversations are: the openings as the answer to the first request.

    Raises:
        RipcurrentError: The chat template refuses such a conversation or rewrites the answer.
    """

    def tokens(request: str, opening: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        turns = (Message("user", request), Message("assistant", opening))
        row = encode_anchor(turns, chat_model.tokenizer, max_tokens=4096, first_tokens=4096)
        if row.status != "ok":
            raise RipcurrentError(
                f"A request answered by {opening!r} cannot be rendered for {chat_model.name} ({row.status}).",
                "Use a model whose chat template keeps an answer as it is, and requests below 4,000 tokens.",
            )
        first = int(np.flatnonzero(row.loss_mask)[0])
        ids = row.tokens.tolist()
        return tuple(ids[:first]), tuple(ids[first:])

    tree = build_tree([tokens(requests[0], opening)[1] for opening in openings])
    return OpenedRequests(tuple(tokens(request, openings[0])[0] for request in requests), tree)


class RefusalOdds:
    """Measures each request's log-odds of a refusal's opening at a model's current weights.

    ``log P / (1 - P)``, ``P`` the probability that the answer begins with one of the openings, token by token: the sum
    over openings of the product of their tokens' probabilities. ``1 - P`` is summed from what leaves the tree at each
    node, so that a model that always refuses does not round it away. Natural logarithm; higher = refuses more surely.

    All beginnings of openings follow their request in one sequence, each seeing the request and its own beginnings
    only, so that one pass over the requests gives every opening's probability.
    """

    def __init__(self, chat_model: ChatModel, opened: OpenedRequests, compute: torch.dtype) -> None:
        """Put the requests into batches, once.

        Raises:
            RipcurrentError: The model's head, its attention window or its attention masks do not allow it.
        """
        model: Any = chat_model.model
        self._base = getattr(model, model.base_model_prefix)
        self._head = model.get_output_embeddings()
        self._transform = find_logit_transform(model)
        self._opened = opened
        self._compute = compute
        self._device = chat_model.device
        _require_window(model, max(map(len, opened.requests)) + opened.tree.nodes, chat_model.name)
        additive = model.config._attn_implementation == "eager"
        self._batches = [
            (places, *packed([opened.requests[place] for place in places], opened.tree, additive, chat_model.device))
            for places in _chunks([len(request) for request in opened.requests], opened.tree.nodes)
        ]
        self._confirm(chat_model.name)

    def __call__(self) -> FloatArray:
        """Log-odds of each request, in order, shape ``(requests,)``."""
        odds = np.empty(len(self._opened.requests))
        with torch.no_grad():
            for places, ids, mask, positions in self._batches:
                with self._products():
                    hidden = self._base(
                        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
                    ).last_hidden_state
                odds[places] = self._log_odds(hidden[:, -self._opened.tree.nodes :])
        return odds

    def _log_odds(self, hidden: Float[Tensor, "requests nodes width"]) -> FloatArray:
        # the head in float32: what bfloat16 rounds off a logit of 20 is the size of the drops that are looked for
        bias = None if self._head.bias is None else self._head.bias.float()
        logits = torch.nn.functional.linear(hidden.float(), self._head.weight.float(), bias)
        return log_odds(self._transform(logits), self._opened.tree).double().cpu().numpy()

    def _products(self) -> AbstractContextManager[None]:
        return products(self._device, self._compute)

    def _confirm(self, name: str) -> None:
        """The packed pass on the first request against a plain one for each node."""
        request, tree = self._opened.requests[0], self._opened.tree
        states = []
        with torch.no_grad(), self._products():
            for node in range(tree.nodes):
                ids = [*request, *(tree.tokens[place - 1] for place in tree.path(node))]
                hidden = self._base(input_ids=torch.tensor([ids], device=self._device), use_cache=False)
                states.append(hidden.last_hidden_state[:, -1])
        with torch.no_grad():
            plain = float(self._log_odds(torch.stack(states, dim=1))[0])
        found = float(self()[0])
        if not abs(plain - found) <= AGREEMENT:
            raise RipcurrentError(
                f"{name} does not take attention masks as they are meant: the log-odds of a refusal come out as "
                f"{found:.2f} instead of {plain:.2f}.",
                "This architecture cannot be probed.",
                code=ExitCode.NOT_MEASURED,
            )


def products(device: torch.device, compute: torch.dtype) -> AbstractContextManager[None]:
    """A context in which matrix products run in ``compute`` on float32 weights; one per forward pass.

    ``torch.autocast`` keeps cast weights for the length of its context: no optimizer step may fall into one.
    """
    context: AbstractContextManager[None] = torch.autocast(
        device_type=device.type, dtype=torch.bfloat16, enabled=compute == torch.bfloat16
    )
    return context


def log_odds(logits: Float[Tensor, "requests nodes vocabulary"], tree: OpeningTree) -> Float[Tensor, " requests"]:
    """Log-odds of the tree's openings from the float32 logits at its nodes."""
    total = torch.logsumexp(logits, dim=-1)
    reached = [torch.zeros_like(total[:, 0])]
    for token, parent in zip(tree.tokens, tree.parents, strict=True):
        reached.append(reached[parent] + logits[:, parent, token] - total[:, parent])
    opened = [reached[node] + logits[:, node, token] - total[:, node] for node, token in tree.ends]
    left = []
    for node in range(tree.nodes):
        others = logits[:, node].clone()
        others[:, tree.children(node)] = float("-inf")
        left.append(reached[node] + torch.logsumexp(others, dim=-1) - total[:, node])
    return torch.logsumexp(torch.stack(opened), dim=0) - torch.logsumexp(torch.stack(left), dim=0)


def packed(
    requests: Sequence[Sequence[int]], tree: OpeningTree, additive: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Requests padded on the left, each followed by the tree's nodes: ids, attention mask, position ids.

    Ids and positions have the shape ``(requests, tokens)``, the mask ``(requests, 1, tokens, tokens)``: booleans, or
    where ``additive`` zeros and the lowest float32.
    """
    longest = max(map(len, requests))
    width = longest + tree.nodes - 1
    ids = torch.zeros(len(requests), width, dtype=torch.long)
    positions = torch.zeros_like(ids)
    # padding sees itself: a softmax over nothing would be no number
    seen = torch.eye(width, dtype=torch.bool).repeat(len(requests), 1, 1)
    for place, request in enumerate(requests):
        start = longest - len(request)
        ids[place, start:longest] = torch.tensor(request)
        positions[place, start:longest] = torch.arange(len(request))
        seen[place, start:longest, start:longest] |= torch.ones(len(request), len(request)).tril().bool()
        for node in range(1, tree.nodes):
            column, path = longest + node - 1, tree.path(node)
            ids[place, column] = tree.tokens[node - 1]
            positions[place, column] = len(request) + len(path) - 1
            seen[place, column, start:longest] = True
            seen[place, column, [longest + above - 1 for above in path]] = True
    mask = seen.unsqueeze(1)
    if additive:
        mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    return ids.to(device), mask.to(device), positions.to(device)


def _chunks(lengths: Sequence[int], nodes: int) -> list[list[int]]:
    """Requests of like length together, no more than `TOKENS_AT_ONCE` padded tokens of them."""
    chunks: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        widest = lengths[chunks[-1][0]] + nodes if chunks else 0
        if chunks and widest * (len(chunks[-1]) + 1) <= TOKENS_AT_ONCE:
            chunks[-1].append(place)
        else:
            chunks.append([place])
    return chunks


def _require_window(model: Any, tokens: int, name: str) -> None:
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if window is not None and tokens > window and (kinds is None or "sliding_attention" in kinds):
        raise RipcurrentError(
            f"Requests of up to {tokens} tokens are longer than the attention window of {name}, {window} tokens.",
            "Use shorter requests.",
        )
