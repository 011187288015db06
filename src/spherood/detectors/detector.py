"""The contract of every score: ``fit`` on what is known, ``score`` what is new; higher = more OOD, everywhere.

All that was learned sits in buffers, so `state_dict`, `.to()` and export work as for any module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spherood.errors import ConfigError, FitError, NotFittedError, ShapeError
from spherood.outputs import Outputs
from spherood.sphere import at_least_float32

Array: TypeAlias = Tensor | NDArray[Any]
Batch: TypeAlias = tuple[Outputs | Array, Array | None]
Features: TypeAlias = Outputs | Array | Iterable[Batch]
Classifier: TypeAlias = nn.Linear | None
Neighbours: TypeAlias = tuple[Tensor, Tensor]  # cosine (B, n) and row of the bank (B, n), nearest first

SCORE_ROWS = 8192  # rows scored at once: bounds the memory of a product with bank or classes


class Detector(nn.Module, ABC):
    """Subclasses say what they read, and give `fit` and `forward`; see detectors/mahalanobis.py for a short one."""

    reads: ClassVar[Literal["feature", "embedding", "logits", "layers"]] = "feature"
    needs_classifier: ClassVar[bool] = False  # `fit` reads the weights of the model's classifier
    laws: ClassVar[tuple[str, ...]] = ("permutation",)  # that hold by default; spherood.testing tries them

    @abstractmethod
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Forget the past and learn from x; FitError where x cannot be learned from."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The bare arithmetic of `score`, (B, D) -> (B,), for export: no check, no data-dependent branch."""

    @torch.no_grad()
    def score(self, x: Outputs | Array) -> Tensor:
        """How far x (B, D) lies from what is known, (B,); higher = more OOD.

        NotFittedError before `fit`; ShapeError for another width, NaN or infinity.
        """
        rows = self.checked(x)
        if len(rows) == 0:
            return rows.new_empty(0)
        return torch.cat([self(part) for part in rows.split(SCORE_ROWS)])

    def forward_with_neighbours(self, x: Tensor, n: int) -> tuple[Tensor, Neighbours | None]:
        """The bare arithmetic of `score_with_neighbours`, for export as `forward`."""
        return self(x), None

    @torch.no_grad()
    def score_with_neighbours(self, x: Outputs | Array, n: int) -> tuple[Tensor, Neighbours | None]:
        """`score`, and up to n nearest rows of the bank where this detector keeps one."""
        found = [self.forward_with_neighbours(part, n) for part in self.checked(x).split(SCORE_ROWS)]
        score = torch.cat([score for score, _ in found])
        near = [one for _, one in found if one is not None]
        if not near:
            return score, None
        cosine, row = (torch.cat(parts) for parts in zip(*near, strict=True))
        return score, (cosine, row)

    def checked(self, x: Outputs | Array) -> Tensor:
        """What this detector reads of x, (B, D), on its device; errors as `score` raises them."""
        empty = [name for name, buffer in self.named_buffers() if buffer.numel() == 0]
        if empty:
            raise NotFittedError(f"{self.name}: not fitted. Call fit(feature, label) first.")
        rows = self._rows(x, f"{self.name}.score").to(self._device)
        if self.width is not None and rows.shape[1] != self.width:
            raise ShapeError(
                f"{self.name}.score: {self.rows_read} have {rows.shape[1]} columns, the fitted ones had {self.width}. "
                "Was it fitted on another encoder?"
            )
        return rows

    @property
    def no_graph(self) -> str:
        """Why this score cannot become a graph (ONNX); empty where it can, as nearly all can."""
        return ""

    @property
    def name(self) -> str:
        """The class's name, as messages use it."""
        return type(self).__name__

    @property
    def rows_read(self) -> str:
        """`features`, `embeddings`, `logits` or `layers`, for messages."""
        return self.reads.removesuffix("s") + "s"

    @property
    def width(self) -> int | None:
        """Columns of what it was fitted on; None where any width will do."""
        return None

    def declare(self, *names: str) -> None:
        """Register empty buffers, to be filled by `fit` and resized on load: an answer given too early is an error."""
        for name in names:
            self.register_buffer(name, torch.empty(0))

    def head(self, classifier: Classifier) -> tuple[Tensor, Tensor]:
        """Weight (C, D) and bias (C,) of the model's classifier, float32, detached. FitError without one."""
        if classifier is None:
            raise FitError(
                f"{self.name}.fit: needs the model's classifier. Call fit(feature, label, classifier=model.classifier)."
            )
        weight = classifier.weight.detach().float()
        return weight, weight.new_zeros(len(weight)) if classifier.bias is None else classifier.bias.detach().float()

    def batches(self, x: Features, label: Array | None) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Checked batches (rows (B, D), label (B,) or None) of arrays, of `Outputs`, or of an iterable of pairs."""
        where = f"{self.name}.fit"
        whole = isinstance(x, Outputs | Tensor | np.ndarray)
        if not whole and label is not None:
            raise FitError(f"{where}: labels belong into the batches: pass pairs (x, label) and no label beside them.")
        pairs: Iterable[Batch] = [(x, label)] if whole else x  # type: ignore[list-item, assignment]
        count, width = 0, None
        for pair in pairs:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise FitError(f"{where}: expected batches of pairs (x, label). Without labels pass (x, None).")
            part, part_label = pair
            rows = self._rows(part, where)
            count, width = count + len(rows), width or rows.shape[1]
            if rows.shape[1] != width:
                raise ShapeError(
                    f"{where}: a batch has {rows.shape[1]} columns, the first had {width}. Use one encoder."
                )
            if len(rows):
                yield rows, None if part_label is None else _check_label(part_label, rows, where)
        if count == 0:
            raise FitError(f"{where}: no data: the array or the iterable is empty. A used-up generator gives nothing.")

    def _rows(self, x: Outputs | Array, where: str) -> Tensor:
        if isinstance(x, Outputs):
            part = getattr(x, self.reads)
            if part is None:
                raise ConfigError(f"{where}: reads {self.reads}, which this model does not have.")
            x = _side_by_side(part, where) if self.reads == "layers" else part
        rows = as_tensor(x)
        if rows.ndim != 2 or not rows.is_floating_point():
            raise ShapeError(
                f"{where}: expected floating {self.rows_read} (B, D), got {rows.dtype} of shape {tuple(rows.shape)}."
            )
        rows = at_least_float32(rows.detach())
        if not bool(rows.sum(dim=1).isfinite().all()):  # a twentieth of the time; a sum may overflow where no row does
            bad = (~rows.isfinite().all(dim=1)).nonzero().flatten()
        else:
            bad = rows.new_empty(0)
        if len(bad):
            raise ShapeError(
                f"{where}: {len(bad)} of {len(rows)} rows hold NaN or infinity, the first is row {int(bad[0])}. "
                "Drop them, or look for the image or the layer they come from."
            )
        return rows

    @property
    def _device(self) -> torch.device:
        return next((buffer.device for buffer in self.buffers()), torch.device("cpu"))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self._buffers.items():
            saved = state_dict.get(prefix + name)
            if buffer is not None and saved is not None:
                self._buffers[name] = torch.empty_like(saved, device=buffer.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


def as_tensor(x: Array) -> Tensor:
    """x as a tensor; a copy where torch cannot share its memory: a read-only map, a reversed view."""
    return torch.as_tensor(np.require(x, requirements=["C", "W"]) if isinstance(x, np.ndarray) else x)


def _side_by_side(layers: Sequence[Array], where: str) -> Tensor:
    """Features of L layers, each (B, F_i), as rows (B, sum F_i)."""
    shapes = [tuple(layer.shape) for layer in layers]
    if not layers or any(len(shape) != 2 or shape[0] != shapes[0][0] for shape in shapes):
        raise ShapeError(
            f"{where}: expected layers (B, F_i), got {', '.join(map(str, shapes)) or 'none'}. Give each as many rows, "
            "and a map its mean: map.mean(dim=(2, 3))."
        )
    return torch.cat([as_tensor(layer) for layer in layers], dim=1)


def _check_label(label: Array, rows: Tensor, where: str) -> Tensor:
    checked = as_tensor(label).to(rows.device)
    if checked.shape != rows.shape[:1] or checked.is_floating_point():
        raise ShapeError(
            f"{where}: expected integer labels ({len(rows)},), got {checked.dtype} of shape {tuple(checked.shape)}."
        )
    if int(checked.min()) < 0:
        raise ShapeError(
            f"{where}: labels begin at {int(checked.min())}, expected 0 or more. Drop unknown labels first."
        )
    return checked.long()
