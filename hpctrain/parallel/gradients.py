"""Sums of gradients over ranks: exact, in buckets that are on their way while the backward pass goes on; or rounded."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Protocol

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from hpctrain.config import ComponentConfig
from hpctrain.parallel.communicator import Communicator
from hpctrain.registry import register

State = dict[str, Any]


class GradientSum(Protocol):
    """Sums the gradients of some parameters over ranks. Every rank does the same calls."""

    def overlapping(self) -> AbstractContextManager[None]:
        """For the backward pass that completes the gradients: those that are ready may start on their way in it."""
        ...

    def finish(self, extra: Tensor) -> list[float]:
        """Make every ``grad`` the sum over ranks; returns the sums of ``extra`` (k,), which rides along. Its second
        number is the weight of this rank's samples.

        A parameter that has a gradient on some ranks counts as zero on the others; one that has none anywhere keeps
        none, as on a single rank.
        """
        ...

    def state(self) -> State:
        """What going on needs, the same on every rank. Every rank calls it."""
        ...

    def load(self, state: State) -> None:
        """Go on from ``state``, at any number of ranks."""
        ...


class Bucket:
    """Gradients of neighbouring parameters in one stretch of memory, and ``room`` for some numbers after them."""

    def __init__(self, parameters: Sequence[nn.Parameter], room: int = 0) -> None:
        first = parameters[0]
        self.parameters = parameters
        length = sum(p.numel() for p in parameters)
        self.flat = torch.zeros(length + room, dtype=first.dtype, device=first.device)
        self.rest = self.flat[length:]
        self.views: list[Tensor] = []
        start = 0
        for p in parameters:
            self.views.append(self.flat.as_strided(p.shape, _strides(p), start))
            start += p.numel()
        self.missing = 0
        """Gradients that are not ready yet in this backward pass."""

    def fill(self) -> None:
        """Copy every gradient to its place; zeros where there is none."""
        for p, view in zip(self.parameters, self.views, strict=True):
            if p.grad is None:
                view.zero_()
            else:
                view.copy_(p.grad)

    def give(self, counts: Sequence[float]) -> None:
        """Make each view the ``grad`` of its parameter, if any rank had one."""
        for p, view, count in zip(self.parameters, self.views, counts, strict=True):
            p.grad = view if count else None


class BucketedSum:
    """One message a bucket. The last one carries what rides along, unless gradients are rounded."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        communicator: Communicator,
        *,
        bucket_bytes: float,
        overlap: bool,
        rounded_to: torch.dtype | None = None,
    ) -> None:
        """``overlap``: whether buckets may start in the backward pass; not where the losses themselves talk to other
        ranks, whose messages they would cross. ``rounded_to``: what gradients are rounded to for the way."""
        self.communicator = communicator
        self.rounded_to = rounded_to
        self.buckets = buckets(parameters, bucket_bytes, room=8)
        self._bucket_of = {p: bucket for bucket in self.buckets for p in bucket.parameters}
        self._on_their_way: list[tuple[Tensor, Callable[[], None]]] = []
        self._completing = False
        if overlap and len(self.buckets) > 1:
            for p in self._bucket_of:
                p.register_post_accumulate_grad_hook(self._ready)  # type: ignore[no-untyped-call]

    @contextmanager
    def overlapping(self) -> Iterator[None]:
        for bucket in self.buckets:
            bucket.missing = len(bucket.parameters)
        self._completing = True
        try:
            yield
        finally:
            self._completing = False

    def _ready(self, parameter: Tensor) -> None:
        """Autograd says that a gradient is complete."""
        if not self._completing:  # of another phase, or of micro-batches before the last
            return
        self._bucket_of[parameter].missing -= 1  # type: ignore[index]
        # In one sequence on every rank, whichever is complete first; the last waits for what rides along.
        while (n := len(self._on_their_way)) < len(self.buckets) - 1 and not self.buckets[n].missing:
            self._start(self.buckets[n])

    def _start(self, bucket: Bucket) -> None:
        bucket.fill()
        message = bucket.flat if self.rounded_to is None else bucket.flat.to(self.rounded_to)
        self._on_their_way.append((message, self.communicator.start_all_reduce(message)))

    def finish(self, extra: Tensor) -> list[float]:
        riding = rider(self.buckets, extra)
        last = self.buckets[-1]
        if self.rounded_to is None:
            last.rest[: len(riding)] = riding
        for bucket in self.buckets[len(self._on_their_way) :]:
            self._start(bucket)
        if self.rounded_to is not None:
            self.communicator.all_reduce(riding)
        for bucket, (message, wait) in zip(self.buckets, self._on_their_way, strict=True):
            wait()
            if message is not bucket.flat:
                bucket.flat.copy_(message)
        self._on_their_way = []
        return unload(self.buckets, last.rest[: len(riding)] if self.rounded_to is None else riding)

    def state(self) -> State:
        return {}

    def load(self, state: State) -> None:
        pass


def buckets(parameters: Sequence[nn.Parameter], bucket_bytes: float, *, room: int) -> list[Bucket]:
    """Parameters in buckets of about so many bytes and of one type and device each, the last ones first: their
    gradients are ready first. The last bucket has room for a rider of ``room`` numbers.

    Raises ``ValueError`` when nothing is trained.
    """
    groups: list[list[nn.Parameter]] = []
    size = 0
    for p in reversed([p for p in parameters if p.requires_grad]):
        same = bool(groups) and (groups[-1][0].dtype, groups[-1][0].device) == (p.dtype, p.device)
        if not same or size + p.nbytes > bucket_bytes:
            groups.append([])
            size = 0
        groups[-1].append(p)
        size += p.nbytes
    if not groups:
        raise ValueError("no parameter needs a gradient")
    rooms = [0] * (len(groups) - 1) + [room + sum(map(len, groups))]
    return [Bucket(group, r) for group, r in zip(groups, rooms, strict=True)]


def rider(buckets: Sequence[Bucket], extra: Tensor) -> Tensor:
    """Which parameters have a gradient here, then ``extra``: float64, on the device of the last bucket."""
    seen = torch.tensor(
        [float(p.grad is not None) for b in buckets for p in b.parameters], dtype=torch.float64
    )
    return torch.cat([seen.to(buckets[-1].flat.device), extra.to(buckets[-1].flat.device, torch.float64)])


def unload(buckets: Sequence[Bucket], riding: Tensor) -> list[float]:
    """Hand out the gradients of all buckets; what is left of the rider, summed over ranks."""
    numbers: list[float] = riding.tolist()
    start = 0
    for bucket in buckets:
        bucket.give(numbers[start : (start := start + len(bucket.parameters))])
    return numbers[start:]


def _strides(parameter: Tensor) -> tuple[int, ...]:
    """Those of the parameter (channels last, say), since optimisers are fast where both are alike."""
    reach = 1 + sum((n - 1) * s for n, s in zip(parameter.shape, parameter.stride(), strict=True))
    return (
        parameter.stride()
        if reach == parameter.numel()
        else torch.empty(parameter.shape, device="meta").stride()
    )


class _Bucketed(ComponentConfig):
    bucket_mb: PositiveFloat = 4.0
    """Gradients that travel in one message, in 10⁶ bytes: small ones start sooner, large ones waste less."""


@register("gradients")
class Exact:
    """Gradients as they are."""

    class Config(_Bucketed):
        kind: Literal["exact"] = "exact"

    def __new__(  # type: ignore[misc]
        cls, config: Config, parameters: Sequence[nn.Parameter], communicator: Communicator, *, overlap: bool
    ) -> GradientSum:
        return BucketedSum(parameters, communicator, bucket_bytes=1e6 * config.bucket_mb, overlap=overlap)


@register("gradients")
class BFloat16:
    """Gradients rounded to bfloat16 for the way and in the sums: half the bytes of float32, 8 bits of precision."""

    class Config(_Bucketed):
        kind: Literal["bfloat16"] = "bfloat16"

    def __new__(  # type: ignore[misc]
        cls, config: Config, parameters: Sequence[nn.Parameter], communicator: Communicator, *, overlap: bool
    ) -> GradientSum:
        return BucketedSum(
            parameters, communicator,
            bucket_bytes=1e6 * config.bucket_mb, overlap=overlap, rounded_to=torch.bfloat16,
        )  # fmt: skip
