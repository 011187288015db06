"""OpenOOD v1.5's conventions around our scores: a detector as its post-processor, its post-processor as a detector.

    conf = -s          higher = more normal; in the unit of s

OpenOOD is not imported: what it calls, and what it is asked, are methods by name. Of its networks there are two kinds.
A classifier gives logits and features by `net(data, return_feature=True)`; pred is the argmax of its logits.
CIDERNet, which ReweightOOD has too, gives an embedding alone, and unit features by `net.intermediate_forward(data)`.
An argmax over an embedding names no class: pred is then the class with the nearest mean direction of training rows.
Shapes: B batch, D dimension, C classes.
Source: the interface of openood/postprocessors and openood/evaluation_api, Zhang et al., arXiv:2306.09301.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from spherood.detectors import Detector, Scorer
from spherood.detectors.prototype_cosine import prototypes
from spherood.errors import ConfigError, DataError, NotFittedError
from spherood.outputs import Outputs
from spherood.progress import progress as progress_of
from spherood.sphere import normalize

ROWS = 200  # OpenOOD's batch: some of its scores make a (B, B) matrix for each class


class Postprocessor:
    """``Postprocessor(KNN(k=50))``: `setup` fits the detector, `postprocess` and `inference` score with it.

    OpenOOD's Evaluator asks for its base class: ``class Ours(Postprocessor, BasePostprocessor): pass``.
    """

    APS_mode = False  # no search: the Evaluator then asks for no grid, and for neither set_ nor get_hyperparam
    hyperparam_search_done = False

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.prototype = torch.empty(0)  # (C, D), unit rows, where the network has no logits
        self.setup_flag = False

    @torch.no_grad()
    def setup(self, net: Any, id_loader_dict: Mapping[str, Any], ood_loader_dict: Mapping[str, Any]) -> None:
        """Fit on `id_loader_dict["train"]`, once; the OOD images are not looked at.

        The rows wait on the CPU, in one pass over the images; of a score that learns nothing the first batch will do.
        ConfigError for a network without what the detector reads, DataError for other batches, FitError as of `fit`.
        """
        if self.setup_flag:
            return
        if "train" not in id_loader_dict:
            raise ConfigError(f"{self._name}.setup: no loader 'train', only: {', '.join(id_loader_dict) or 'none'}.")
        net.eval()
        rows: list[tuple[Tensor, Tensor]] = []
        logits = None
        for data, label in self._batches(id_loader_dict["train"], "setup", shown=True):
            part, logits = self._read(net, data)
            rows.append((part, label))
            if logits is not None and next(self.detector.buffers(), None) is None:
                break
        self.detector.fit(rows, classifier=_classifier(net) if self.detector.needs_classifier else None)
        if logits is None:
            self.prototype = prototypes(self.detector, rows, None).float()
        self.setup_flag = True

    @torch.no_grad()
    def postprocess(self, net: Any, data: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) to the predicted class (B,) and conf (B,). NotFittedError before `setup`."""
        if not self.setup_flag:
            raise NotFittedError(
                f"{self._name}: not set up. Call setup(net, id_loader_dict, ood_loader_dict) first; an Evaluator does."
            )
        rows, logits = self._read(net, data)
        if logits is None:
            logits = F.linear(normalize(rows), self.prototype)  # (B, C), cosines
        return logits.argmax(dim=1), -self.detector.score(rows)

    def inference(
        self, net: Any, data_loader: Any, progress: bool = True
    ) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.int64]]:
        """pred, conf and label of a whole loader, (N,) each. DataError for an empty one."""
        net.eval()
        found = [
            (*self.postprocess(net, data), label)
            for data, label in self._batches(data_loader, "inference", shown=progress)
        ]
        if not found:
            raise DataError(f"{self._name}.inference: the loader gave no batch.")
        pred, conf, label = (torch.cat([part.cpu() for part in parts]).numpy() for parts in zip(*found, strict=True))
        return pred.astype(int), conf, label.astype(int)

    def _read(self, net: Any, data: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the detector reads, (B, D), on the CPU, and the logits (B, C) where there are any."""
        data = data.to(next(net.parameters(), data).device)
        if "return_feature" in inspect.signature(net.forward).parameters:
            logits, feature = net(data, return_feature=True)
            outputs = Outputs(feature, logits=logits)
        elif hasattr(net, "intermediate_forward"):
            batch = torch.cat([data, data]) if len(data) == 1 else data  # its squeeze() drops the axis of a single one
            feature = net.intermediate_forward(batch)[: len(data)]
            outputs = Outputs(feature, net(batch)[: len(data)] if self.detector.reads == "embedding" else None)
        else:
            raise ConfigError(
                f"{self._name}: {type(net).__name__} gives no features: its forward takes no return_feature, and it "
                "has no intermediate_forward. Pass one of OpenOOD's networks; of a wrapped one, net.module."
            )
        rows: Tensor | None = getattr(outputs, self.detector.reads)
        if rows is None:
            raise ConfigError(
                f"{self._name}: reads {self.detector.reads}, which {type(net).__name__} does not give. "
                "Use a score of features, such as KNN."
            )
        return rows.float().cpu(), outputs.logits

    def _batches(self, loader: Any, what: str, *, shown: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of a loader."""
        with progress_of(f"{self._name}.{what}", len(loader), "batches") if shown else nullcontext() as advance:
            for batch in loader:
                if not isinstance(batch, Mapping) or not {"data", "label"} <= batch.keys():
                    got = f"a dict of {', '.join(batch)}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
                    raise DataError(
                        f"{self._name}.{what}: expected batches {{'data': images, 'label': classes}}, got {got}. "
                        "Pass one of OpenOOD's loaders."
                    )
                yield batch["data"], torch.as_tensor(batch["label"])
                if advance is not None:
                    advance(1)

    @property
    def _name(self) -> str:
        return f"Postprocessor({self.detector.name})"


def from_openood(postprocessor: Any, *, classifier: nn.Linear | None = None) -> Scorer:
    """``from_openood(knn, classifier=net.get_fc_layer()).score(feature)``: its post-processor as a detector; s = -conf.

    It reads the features (B, D) of the network it was set up on. classifier: that network's last layer; left out for
    one without, such as CIDERNet. It comes fitted, and `fit` only checks, as of every Scorer. NotFittedError before its
    setup, ConfigError for what is no post-processor; `score` adds one where it asks for more than features tell.
    """
    name = type(postprocessor).__name__
    if not callable(getattr(postprocessor, "postprocess", None)):
        raise ConfigError(f"from_openood: {name} has no postprocess(net, data). Pass one of OpenOOD's post-processors.")
    if not getattr(postprocessor, "setup_flag", True):  # MSP and its like have none
        raise NotFittedError(
            f"from_openood: {name} is not set up. Call setup(net, id_loader_dict, ood_loader_dict) first."
        )
    if not isinstance(classifier, nn.Linear | None):
        raise ConfigError(
            f"from_openood: classifier must be a torch.nn.Linear, got {type(classifier).__name__}. "
            "Pass net.get_fc_layer()."
        )
    return Scorer(OnFeatures(postprocessor, classifier), higher="normal")


class OnFeatures:
    """What Scorer asks for, answered by a post-processor that sees a `FeatureNet`."""

    def __init__(self, postprocessor: Any, classifier: nn.Linear | None) -> None:
        self.postprocessor, self.net = postprocessor, FeatureNet(classifier)
        self.shown_as = type(postprocessor).__name__
        self.n_features_in_ = None if classifier is None else classifier.in_features

    def score_samples(self, x: NDArray[Any]) -> Tensor:
        """Features (B, D) to conf (B,)."""
        rows = torch.from_numpy(x).float()
        rows = rows.to(next(self.net.parameters(), rows).device)
        try:
            found = [self.postprocessor.postprocess(self.net, part)[1] for part in rows.split(ROWS)]
        except AttributeError as error:
            if error.obj is not self.net:
                raise
            way_out = (
                "Pass classifier=net.get_fc_layer()." if error.name == "fc" else "Features alone cannot answer that."
            )
            raise ConfigError(f"{self.shown_as}: asks its network for {error.name}. {way_out}") from None
        return torch.cat([torch.as_tensor(conf).cpu() for conf in found])


class FeatureNet(nn.Module):
    """Stands where the network stood: features (B, D) go in, and what it would make of them comes out.

    Without a classifier there is no `fc`, and whatever needs it is an AttributeError that names it.
    """

    def __init__(self, classifier: nn.Linear | None) -> None:
        super().__init__()
        if classifier is not None:
            self.fc = classifier

    def forward(self, data: Tensor, return_feature: bool = False, return_feature_list: bool = False) -> Any:
        """Logits (B, C); with them the features, or as in the networks a list whose last is (B, D, 1, 1)."""
        logits = self.fc(data)
        if return_feature:
            return logits, data
        return (logits, LastLayer(data)) if return_feature_list else logits

    def intermediate_forward(self, data: Tensor) -> Tensor:
        """Unit features (B, D), as CIDERNet gives them."""
        return normalize(data)

    def get_fc(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Weight (C, D) and bias (C,)."""
        return self.fc.weight.detach().cpu().numpy(), self.fc.bias.detach().cpu().numpy()

    def get_fc_layer(self) -> nn.Linear:
        """The classifier."""
        return self.fc


class LastLayer:
    """A list of layers of which the last one is known."""

    def __init__(self, feature: Tensor) -> None:
        self.feature = feature

    def __getitem__(self, index: int) -> Tensor:
        if index != -1:
            raise ConfigError("from_openood: asks for inner layers. Features alone cannot answer that.")
        return self.feature[:, :, None, None]


def _classifier(net: Any) -> nn.Linear | None:
    """A copy on the CPU of a network's last layer, where it has a linear one and shows it."""
    layer = net.get_fc_layer() if hasattr(net, "get_fc_layer") else getattr(net, "fc", None)
    if layer is None and hasattr(net, "get_fc"):
        weight, bias = (torch.as_tensor(part) for part in net.get_fc())
        layer = nn.Linear(weight.shape[1], len(weight))
        layer.load_state_dict({"weight": weight, "bias": bias})
    return copy.deepcopy(layer).cpu() if isinstance(layer, nn.Linear) else None
