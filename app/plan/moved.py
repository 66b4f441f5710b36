"""Tensors that lie apart from their layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from app.gguf.model import ModelLayout, TensorInfo
from app.plan import memory
from app.plan.model import DevicePlan, HostPlan, TensorOverride
from app.plan.rules import CPU, BackendRules, rules

HOST = -1
"""Main memory, among indices of devices."""
TOO_LARGE = "Vulkan computes with no tensor over 4 GiB."

Barred = Sequence[tuple[int, TensorInfo]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A tensor apart from its layer: at `target`, the device (index), or HOST."""

    layer: int
    tensor: TensorInfo
    target: int
    override: TensorOverride

    def applied(
        self, order: Sequence[int], shares: Sequence[DevicePlan], host: HostPlan
    ) -> tuple[list[DevicePlan], HostPlan]:
        """Shares (of the devices in `order`) with the tensor taken from its layer's and put at its place."""
        result = []
        for index, share in zip(order, shares, strict=True):
            size = memory.tensor_bytes(self.tensor, rules(share.device.backend))
            first, last = share.first_layer, share.last_layer
            leaves = first is not None and last is not None and first <= self.layer <= last
            weights = share.weights_bytes + size * ((index == self.target) - leaves)
            result.append(dataclasses.replace(share, weights_bytes=weights))
        if self.target == HOST:
            size = memory.tensor_bytes(self.tensor, CPU)
            host = dataclasses.replace(host, weights_bytes=host.weights_bytes + size)
        return result, host


def barred(layout: ModelLayout, kind: BackendRules) -> Barred:
    """Tensors that are too large for the backend, with their layers, the output being layer `block_count`."""
    most = kind.most_tensor_bytes
    if most is None:
        return ()
    layers = [(layer.index, tensor) for layer in layout.layers for tensor in layer.tensors]
    layers += [(layout.block_count, tensor) for tensor in layout.output]
    return tuple((layer, tensor) for layer, tensor in layers if tensor.size_bytes > most)


def stranded(
    order: Sequence[int], spans: Sequence[tuple[int, int]], by_device: Sequence[Barred]
) -> tuple[Moved, ...]:
    """What stays in main memory because the device (index) of its layer cannot hold it."""
    return tuple(
        Moved(
            layer=layer,
            tensor=tensor,
            target=HOST,
            override=TensorOverride(
                tensor=tensor.name, device="CPU", size_bytes=tensor.size_bytes, reason=TOO_LARGE
            ),
        )
        for index, (first, end) in zip(order, spans, strict=True)
        for layer, tensor in by_device[index]
        if first <= layer < end
    )
