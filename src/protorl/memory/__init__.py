"""Memory: Storage (what happened) + View (what an example is) + Sampler (which) + Rate (when)."""

from protorl.memory.kept import Starts
from protorl.memory.rate import Rate
from protorl.memory.replay import Replay
from protorl.memory.samplers import All, Minibatches, Prioritized, Sampler, Uniform
from protorl.memory.sequences import Sequence
from protorl.memory.storage import MemoryPlan, Storage, home_of, plan_memory
from protorl.memory.sumtree import SumTree
from protorl.memory.views import NStep, OneStep, Rollout, View

__all__ = [
    "All",
    "MemoryPlan",
    "Minibatches",
    "NStep",
    "OneStep",
    "Prioritized",
    "Rate",
    "Replay",
    "Rollout",
    "Sampler",
    "Sequence",
    "Starts",
    "Storage",
    "SumTree",
    "Uniform",
    "View",
    "home_of",
    "plan_memory",
]
