"""Count the bytes that a process sends through torch.distributed."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

_SEND_NOTHING = ("recv_", "recv_any_source_", "barrier", "monitored_barrier_")


class count_sent(TorchDispatchMode):
    """Count the bytes that this process sends in a block, its backward passes included.

        with count_sent() as sent:
            ring_attention(q, k, v)
        print(sent.bytes, sent.messages)

    What torch.distributed is asked to send passes through torch's dispatcher, whoever asks; there
    it is counted: payload, without what the network puts around it. In an all-to-all, what a
    process keeps for itself is not sent; in an all-gather, each sends its part to all others.

    Attributes:
        bytes: Bytes sent.
        messages: To how many processes, added up over all calls.

    Raises:
        NotImplementedError: In the block: another collective, whose bytes depend on the algorithm
            that the backend chooses.
    """

    def __init__(self):
        super().__init__()
        self.bytes = self.messages = 0

    @classmethod
    def _should_skip_dynamo(cls):
        """Skip torch's compiler where it was used: else it would be loaded, for seconds."""
        return "torch._dynamo" in sys.modules

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Count one call, and do it."""
        if func.namespace == "c10d":
            name = func._schema.name.removeprefix("c10d::")
            if name not in _SEND_NOTHING:
                self._count(name, args)
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, args: Any) -> None:
        if name == "send":
            parts = [tensor.nbytes for tensor in args[0]]
        elif name == "alltoall_base_":
            group = dist.ProcessGroup.unbox(args[2])
            sent, splits = args[1], list(args[4])
            row = math.prod(sent.shape[1:]) * sent.element_size()
            splits = splits or [sent.shape[0] // group.size()] * group.size()
            parts = [n * row for rank, n in enumerate(splits) if rank != group.rank()]
        elif name == "_allgather_base_":
            parts = [args[1].nbytes] * (dist.ProcessGroup.unbox(args[2]).size() - 1)
        elif name == "allgather_":
            others = dist.ProcessGroup.unbox(args[2]).size() - 1
            parts = [tensor.nbytes for tensor in args[1]] * others
        else:
            raise NotImplementedError(f"count_sent: cannot tell the bytes of {name}")
        self.bytes += sum(parts)
        self.messages += sum(1 for part in parts if part)
