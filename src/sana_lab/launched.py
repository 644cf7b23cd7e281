"""Which of several launched processes this one is, as `accelerate launch`, `torchrun` or `mpirun` tell it."""

from __future__ import annotations

import os
from dataclasses import dataclass

FEWER = "accelerate has started one process, not those asked for; add --multi_gpu, and leave out --cpu"


@dataclass(frozen=True)
class Launched:
    """Which of the launched processes this one is.

    Args:
        rank: its number.
        world: how many there are.
        local: its number on its machine, which is that of its GPU.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @classmethod
    def here(cls) -> Launched:
        """As the launcher tells it in the environment; alone without one."""
        from accelerate.utils.environment import get_cpu_distributed_information

        told = get_cpu_distributed_information()  # only reads variables, also for GPUs (accelerate 1.15.0)
        return cls(told.rank, told.world_size, told.local_rank)


def fewer_than_asked() -> bool:
    """Whether accelerate was asked for several processes and has started one.

    It does so on a machine with less than two GPUs and with `--cpu`, silently (1.15.0, commands/launch.py,
    simple_launcher, which sets MASTER_ADDR for several and starts one). With `--multi_gpu` it starts them all.
    """
    told = os.environ
    return "ACCELERATE_USE_CPU" in told and "MASTER_ADDR" in told and not {"RANK", "WORLD_SIZE"} & told.keys()
