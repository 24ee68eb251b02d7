"""Actors: who steps the environments."""

from protorl.actors.local import LocalActors
from protorl.actors.overlapped import OverlappedActors

__all__ = ["LocalActors", "OverlappedActors"]
