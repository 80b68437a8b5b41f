"""Classify whole-detector images: signal against background, with cross-section weights in the loss."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hpctrain.config import AnyComponent, ComponentConfig, component, section
from hpctrain.data.augment import symmetries
from hpctrain.data.loader import Batch
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.registry import register
from hpctrain.tasks.base import LossSum, Phase

LossWeights = Literal["none", "cross_section", "log"]


@register("tasks")
class ImageClassification:
    """Softmax cross-entropy on images, one class against the other, each class with the same total weight."""

    class Config(ComponentConfig):
        kind: Literal["image_classification"] = "image_classification"
        model: Annotated[AnyComponent, component("models", "whole_detector_cnn")] = section(
            "models", "whole_detector_cnn"
        )
        """The network."""
        transform: Literal["linear", "log"] = "log"
        """What the network sees of a cell of energy E (or track count) when the training set's largest is M:
        ``linear``: E/M, one global constant a channel as in the paper; ``log``: log(1+E)/log(1+M), which keeps
        soft cells visible and needs fewer bits in firmware."""
        loss_weights: LossWeights = "none"
        """Weight of an event in the loss: ``cross_section``; ``log``: log(1 + w/w_min), defined for every
        positive weight; ``none``: 1. In every case each class then gets the same total."""
        phi_roll: bool = True
        """Augment: turn each training image by a random angle (the detector is symmetric in φ)."""
        eta_flip: bool = True
        """Augment: mirror half of the training images in η."""

    fields: Sequence[str] = ("image", "label", "weight")
    balance = None
    model: nn.Module

    def __init__(self, config: Config) -> None:
        self.config = config
        self.epoch = 0
        self.seed = 0

    def prepare(self, dataset: ShardDataset, seed: int) -> None:
        """Model for the dataset's image shape, with the scale and class weights of the dataset (training split)."""
        self.check(dataset)
        self.seed = seed
        torch.manual_seed(seed)
        self.model = self.config.model.build(shape=dataset.fields["image"].shape, classes=2)
        if "image_max" not in dataset.scale:
            raise UserError(
                f"{dataset.directory}/dataset.json: scale has no 'image_max'",
                hint="Give ShardWriter scale={'image_max': [largest value of each channel in the training split]}",
            )
        largest = torch.tensor(dataset.scale["image_max"], dtype=torch.float32)
        self.scale = torch.log1p(largest) if self.config.transform == "log" else largest
        self.scale = self.scale.clamp(min=torch.finfo(torch.float32).tiny).view(1, -1, 1, 1)
        self.smallest_weight = min(float(c["weight"].min()) for c in dataset.chunks(["weight"]))
        if self.smallest_weight <= 0:
            raise UserError(
                f"{dataset.directory}: field 'weight' must be positive, found {self.smallest_weight}"
            )
        totals = np.zeros(2)
        for columns in dataset.chunks(["label", "weight"]):
            raw = self._raw_weights(columns["weight"])
            totals += [raw[columns["label"] == c].sum() for c in (0, 1)]
        self.class_factor = dataset.events / (2 * totals)

    def check(self, dataset: ShardDataset) -> None:
        """Raise ``UserError`` when a field is missing or the events are not of both classes."""
        for name in self.fields:
            if name not in dataset.fields:
                raise UserError(
                    f"{dataset.directory} has no field '{name}', which image_classification needs"
                )
        labels: set[int] = set()
        for columns in dataset.chunks(["label"]):
            labels.update(np.unique(columns["label"]).tolist())
        if labels - {0, 1}:
            raise UserError(
                f"{dataset.directory}: field 'label' must be 0 or 1, found {min(labels - {0, 1})}"
            )
        if labels != {0, 1}:
            raise UserError(
                f"{dataset.directory} does not hold events of both classes",
                hint="Generate more events, or split otherwise",
            )

    def sample_weights(self, weights: Any, labels: Any) -> Any:
        """Weight of each event in the loss, numpy (n,): mean 1 over the training set, classes balanced."""
        return self._raw_weights(np.asarray(weights)) * self.class_factor[np.asarray(labels, dtype=np.int64)]

    def _raw_weights(self, weights: Any) -> Any:
        if self.config.loss_weights == "none":
            return np.ones(len(weights))
        if self.config.loss_weights == "log":
            return np.log1p(weights / self.smallest_weight)
        return weights / self.smallest_weight

    def inputs(self, batch: Batch) -> Tensor:
        """What the network sees: (n, C, η, φ) float32, scaled, never negative."""
        image = batch["image"].to(torch.float32)
        image = torch.log1p(image) if self.config.transform == "log" else image
        dtype = next(self.model.parameters()).dtype
        return (image / self.scale.to(image.device)).to(dtype)

    def losses(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy and weight of each event: (n,), (n,)."""
        # Of 16-bit logits too the loss is a float32 one.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = functional.cross_entropy(logits, batch["label"], reduction="none")
        weights = self.sample_weights(batch["weight"].cpu().numpy(), batch["label"].cpu().numpy())
        return loss, torch.from_numpy(weights).to(loss)

    def training_inputs(self, batch: Batch) -> Tensor:
        """``inputs`` of the augmented images."""
        image = symmetries(
            batch["image"], batch["row"], seed=self.seed, epoch=self.epoch,
            phi_roll=self.config.phi_roll, eta_flip=self.config.eta_flip,
        )  # fmt: skip
        return self.inputs({**batch, "image": image})

    def loss(self, batch: Batch) -> LossSum:
        """Weighted cross-entropy of augmented images."""
        loss, weight = self.losses(self.model(self.training_inputs(batch)), batch)
        return LossSum((loss * weight).sum(), weight.sum())

    def phases(self) -> list[Phase]:
        return [Phase("classify", list(self.model.parameters()), self.loss)]

    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def predict(self, batch: Batch) -> Tensor:
        """Signal probability (n,)."""
        return torch.softmax(self.model(self.inputs(batch)), dim=1)[:, 1]

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.model(self.inputs(batch))
        loss, weight = self.losses(logits, batch)
        logits = logits.to(loss.dtype)
        # The logit difference orders events as the softmax does, without its rounding to 0 and 1.
        return {"loss": loss, "weight": weight, "label": batch["label"], "score": logits[:, 1] - logits[:, 0]}

    def metrics(self, results: dict[str, Any]) -> dict[str, float]:
        """``loss`` (weighted mean), also of each class alone, and ``auc`` (unweighted), from numpy arrays over all
        ranks: not means of what ranks have found."""
        from sklearn.metrics import roc_auc_score  # scipy takes a second to import

        label, loss, weight = results["label"], results["loss"], results["weight"]
        of_class = {
            f"loss_{name}": float(np.average(loss[label == c], weights=weight[label == c]))
            for c, name in enumerate(("background", "signal"))
        }
        auc = float(roc_auc_score(label, results["score"]))
        return {"loss": float(np.average(loss, weights=weight)), **of_class, "auc": auc}
