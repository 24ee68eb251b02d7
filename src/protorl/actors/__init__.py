"""Actors: who steps the environments."""

from protorl.actors.actors import Actors, Acts
from protorl.actors.first_priorities import FirstPriorities
from protorl.actors.in_processes import InProcesses
from protorl.actors.local import LocalActors
from protorl.actors.on_ray import OnRay
from protorl.actors.overlapped import OverlappedActors
from protorl.actors.workers import WorkerActors

__all__ = ["Actors", "Acts", "FirstPriorities", "InProcesses", "LocalActors", "OnRay", "OverlappedActors", "WorkerActors"]
