"""The compression step: prune round by round, then train on in fixed point, and say what each cost."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import nn

from hpctrain.compress.figures import compression_figures, layer_records
from hpctrain.compress.fold import fold_batchnorm
from hpctrain.compress.prune import MagnitudePruning, masked_layers, sparsity, with_masks
from hpctrain.compress.quantise import Calibration, Quantiser, exact, quantise_network
from hpctrain.compress.retrain import Arrays, Retraining
from hpctrain.compress.saved import save_network
from hpctrain.compress.straight import straight_line
from hpctrain.config import AnyComponent, ComponentConfig, component
from hpctrain.files import write_atomically, write_json
from hpctrain.parallel.communicator import Communicator, broadcast_state
from hpctrain.registry import find, register
from hpctrain.run import RunDirectory
from hpctrain.track import Tracker
from hpctrain.training.restore import load_task


def _adam(learning_rate: float) -> Any:
    return Field(default_factory=lambda: find("optimizers", "adam").Config(learning_rate=learning_rate))


@dataclass
class _Record:
    """What is known of the network at each stage, on the test split."""

    scores: dict[str, Arrays] = field(default_factory=dict)
    iterations: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)

    def keep_weights(self, stage: str, network: nn.Module) -> None:
        for name, layer in masked_layers(network).items():
            self.weights[f"{stage}/{name}"] = layer.effective()[0].detach().cpu().numpy()


@register("compress")
class PruneQuantise:
    """Iterative magnitude pruning, then quantisation-aware training, of the best network of a run."""

    class Config(ComponentConfig):
        kind: Literal["prune_quantise"] = "prune_quantise"
        pruning: MagnitudePruning.Config = MagnitudePruning.Config()
        """Schedule of sparsities and the L1 term."""
        epochs_per_round: PositiveInt = 2
        """Epochs trained after each round of pruning."""
        pruning_optimizer: Annotated[AnyComponent, component("optimizers", "adam")] = _adam(1e-3)
        """How weights move while pruning; each round has its own cosine schedule."""
        quantised_epochs: NonNegativeInt = 4
        """Epochs trained in fixed point; 0 quantises the pruned network as it is."""
        quantised_optimizer: Annotated[AnyComponent, component("optimizers", "adam")] = _adam(5e-4)
        """How weights move in fixed-point training."""
        global_batch_size: PositiveInt = 64
        """Samples of one update, over all ranks together."""
        weight_bits: Annotated[int, Field(ge=3, le=16)] = 8
        """Width of weights; integer bits follow from the largest weight of each layer."""
        activation_bits: Annotated[int, Field(ge=2, le=16)] = 8
        """Width of what ReLU, average pooling and inner layers give out."""
        input_bits: Annotated[int, Field(ge=2, le=16)] = 8
        """Width of the network's input."""
        saturated: Annotated[float, Field(ge=0, lt=0.1)] = 1e-4
        """Largest fraction of the non-zero values of a place that may be too large for its type in calibration;
        more gives finer steps."""
        calibration_events: PositiveInt = 512
        """Training events from which integer bits are chosen."""
        replicas: Annotated[int, Field(ge=2)] = 300
        """Bootstrap replicas of the errors."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def run(self, run: RunDirectory, tracker: Tracker, communicator: Communicator) -> dict[str, Any]:
        """Compress the run's best checkpoint into ``RUN/compressed``; returns the summary of the step.

        Every rank must call it; rank 0 writes. Test events are only ever looked at, never chosen by.
        """
        config = self.config
        task = load_task(run)
        task.model.to(communicator.device)
        network = with_masks(fold_batchnorm(straight_line(task.model)))
        first_epoch = getattr(run.experiment.training, "epochs", 0)
        session = Retraining(
            task, run, tracker, communicator,
            global_batch_size=config.global_batch_size, first_epoch=first_epoch,
            epochs=self._epochs(),
        )  # fmt: skip
        record = _Record()
        record.scores["before"] = session.results(network, "test")
        record.keep_weights("before", network)
        self._prune(network, session, tracker, record)
        record.keep_weights("pruned", network)
        quantised = self._quantise(network, session, tracker)
        reference = exact(quantised)
        record.scores["after"] = session.results(reference, "test")
        record.keep_weights("after", reference)
        overflow = self._overflow(reference, session, communicator)

        figures = compression_figures(
            record.scores, record.iterations, epochs=self._epochs(), replicas=config.replicas,
            seed=run.experiment.seed,
        )  # fmt: skip
        layers = layer_records(reference, overflow)
        results = {**figures["results"], "layers": layers, "bits": self._bits()}
        if communicator.rank == 0:
            self._write(run, quantised, record, results, session.input_shape(network))
        communicator.barrier()
        summary: dict[str, Any] = {
            **figures["summary"],
            "sparsity_pruned": record.iterations[-1]["sparsity"] if record.iterations else 0.0,
            "sparsity": sparsity(reference),  # also of the weights that rounding to fixed point made zero
            "bits": self._bits(),
        }
        return summary

    def _prune(self, network: nn.Sequential, session: Retraining, tracker: Tracker, record: _Record) -> None:
        pruning = MagnitudePruning(self.config.pruning)
        for number, target in enumerate(self.config.pruning.sparsities, 1):
            pruning.apply(network, pruning.prune(network, target))
            fitted = session.fit(
                network, self.config.epochs_per_round, self.config.pruning_optimizer,
                stage=f"prune {target:.1%}", penalty=lambda: pruning.penalty(network),
            )  # fmt: skip
            entry = {"target_sparsity": target, "sparsity": sparsity(network), "loss": fitted["loss"]}
            record.scores[f"iteration {number}"] = session.results(network, "test")
            record.iterations.append(entry)
            tracker.log("pruned", round=number, **entry)

    def _quantise(self, network: nn.Sequential, session: Retraining, tracker: Tracker) -> nn.Sequential:
        """Choose types on training events, train on, and keep the epoch with the lowest validation loss."""
        config = self.config
        calibration = Calibration(network.eval())
        for inputs in session.inputs(network, config.calibration_events):
            calibration.add(inputs)
        session.communicator.all_reduce(calibration.counts)
        types = calibration.types(config.activation_bits, config.input_bits, config.saturated)
        quantised = quantise_network(network, types, config.weight_bits)
        broadcast_state(quantised, session.communicator)
        best = {"loss": session.validate(quantised)["loss"]}
        state = copy.deepcopy(quantised.state_dict())
        tracker.log("quantised", types={place: str(kind) for place, kind in types.items()}, **best)

        def keep_best(figures: dict[str, float]) -> None:
            if figures["loss"] < best["loss"]:
                best.update(figures)
                state.update(copy.deepcopy(quantised.state_dict()))

        if config.quantised_epochs:
            session.fit(quantised, config.quantised_epochs, config.quantised_optimizer,
                        stage=f"quantise to {config.weight_bits} bits", after_epoch=keep_best)  # fmt: skip
        quantised.load_state_dict(state)
        return quantised.eval()

    def _overflow(
        self, network: nn.Sequential, session: Retraining, communicator: Communicator
    ) -> dict[str, dict[str, int]]:
        """Place → non-zero values seen, and how many of them saturated, on the calibration events, over all ranks."""
        quantisers = {name: layer for name, layer in network.named_children() if isinstance(layer, Quantiser)}
        for layer in quantisers.values():
            layer.reset()
        with torch.no_grad():
            for inputs in session.inputs(network, self.config.calibration_events):
                network(inputs)
        counts = torch.tensor([[layer.seen, layer.saturated] for layer in quantisers.values()])
        counts = communicator.all_reduce(counts.to(communicator.device))
        return {
            name.removesuffix("_quantiser"): {"seen": int(seen), "saturated": int(saturated)}
            for name, (seen, saturated) in zip(quantisers, counts.tolist(), strict=True)
        }

    def _epochs(self) -> int:
        """Epochs the network is trained for beyond those of the training step."""
        config = self.config
        return config.epochs_per_round * len(config.pruning.sparsities) + config.quantised_epochs

    def _bits(self) -> dict[str, int]:
        return {
            "weights": self.config.weight_bits,
            "activations": self.config.activation_bits,
            "input": self.config.input_bits,
        }

    def _write(
        self, run: RunDirectory, network: nn.Sequential, record: _Record, results: Any, shape: tuple[int, ...]
    ) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **record.weights)  # type: ignore[arg-type]
        run.compressed.mkdir(parents=True, exist_ok=True)
        write_atomically(run.compressed / "weights.npz", buffer.getvalue())
        save_network(run.compressed, network, shape)
        write_json(run.compressed / "results.json", results)
