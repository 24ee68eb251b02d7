"""Actors: who steps the environments."""

from protorl.actors.local import LocalActors

__all__ = ["LocalActors"]
