"""Replay = Storage (what happened) + View (what an example is) + Sampler (which) + Rate (when)."""

from __future__ import annotations

import numpy as np
import torch

from protorl.data import Array, Batch, Chunk, Columns, ProtoRLError, State, tree_leaves, tree_map
from protorl.memory.kernels import turnover
from protorl.memory.rate import Rate
from protorl.memory.samplers import Sampler, Uniform, Window
from protorl.memory.storage import Storage
from protorl.memory.transfer import send
from protorl.memory.views import NStep, View, check_streams


class Replay:
    """A memory of the last `capacity` agent steps.

    columns: what to remember (`agent.columns(env.spec)`); a column `priority`, if declared, gives new rows theirs.
    capacity: agent steps, over all environments. batch_size: examples per sample. view: what an example is. sampler: which
    are drawn. rate: when `due()` asks for updates; never before `batch_size` examples are there. device: where rows live.
    deliver_to: where examples go, through pinned memory and without waiting (None: they stay where the rows are). seed: root
    of the sampler's random stream.

    Raises: ProtoRLError if the memory does not fit (it says how many bytes it takes), or sizes contradict each other.
    """

    def __init__(
        self,
        columns: Columns,
        capacity: int,
        *,
        batch_size: int = 32,
        view: View | None = None,
        sampler: Sampler | None = None,
        rate: Rate | None = None,
        device: torch.device | str = "cpu",
        deliver_to: torch.device | str | None = None,
        seed: int = 0,
    ) -> None:
        if batch_size < 1:
            raise ProtoRLError(f"batch_size {batch_size} is too small: use 1 or more")
        if batch_size > capacity:
            raise ProtoRLError(f"batch_size {batch_size} exceeds capacity {capacity}: raise capacity or lower batch_size")
        self.view: View = NStep() if view is None else view
        check_streams(self.view.streams, columns)
        paid = [stream.name for stream in self.view.streams]
        self.sampler: Sampler = Uniform() if sampler is None else sampler
        priorities = getattr(self.sampler, "bytes", None)
        self.storage = Storage(columns, capacity, device, every=self.view.every, paid=paid, priorities=priorities)
        self.rate = Rate() if rate is None else rate
        self.batch_size = batch_size
        self.deliver_to = self.storage.device if deliver_to is None else torch.device(deliver_to)
        whole = self.storage.length - self.view.pending - self.view.flows
        most = self.storage.lanes * (whole // self.view.every)
        if batch_size > most:
            raise ProtoRLError(
                f"batch_size {batch_size} exceeds the {most} examples that capacity {capacity} holds of {self.storage.lanes} "
                "environments: raise capacity or lower batch_size"
            )
        self.window = Window(self.storage.lanes, self.storage.places)
        self.sampler.bind(self.window, batch_size, seed)
        self.given = "priority" in columns.extras
        self.spent = False  # a burst of updates has used what the view offers once
        self.short = True  # there are fewer than `batch_size` examples
        self.moved = self.room_for(1)
        storage, view = self.storage, self.view
        self.sizes = (storage.ring, storage.length, view.pending, int(view.flows), storage.every, storage.places)
        self.turn = (self.storage.counts, self.storage.live, self.storage.book, self.window.lows, self.window.highs)

    def room_for(self, steps: int) -> Array:
        """For the slots that leave and enter the window when so many steps come."""
        return np.empty((2, self.storage.lanes * (self.view.pending + steps + 1)), np.int64)

    def __len__(self) -> int:
        """Examples that can be sampled now."""
        return self.window.size

    def add(self, chunk: Chunk) -> None:
        """Remember some steps; rows that are not valid are left out.

        Raises: ProtoRLError if a lane or a column is not as declared.
        """
        if self.spent:
            self.forget()
        steps = chunk.valid.shape[0]
        valid = self.storage.add(chunk)
        moved = self.moved if steps == 1 else self.room_for(steps)
        left, entered = self.advance(moved)
        if self.sampler.wants_turnover:
            self.turnover(moved[0, :left], moved[1, :entered])
        idle = 0
        if self.short:  # if there is enough now, then since the last of these steps: `room` was for no more
            self.short = len(self) < self.batch_size
            idle = valid if self.short else valid - int(np.count_nonzero(chunk.valid[-1]))
        self.rate.count(valid, idle)

    def expected(self, steps: int) -> int:
        """How many updates a training of so many agent steps makes; an n-step view's first examples come a little later."""
        lanes = self.storage.lanes
        return self.rate.expected(steps, lanes * ((self.batch_size - 1) // lanes))

    def turnover(self, left: Array, entered: Array) -> None:
        """Tell the sampler which slots left the window and which entered it."""
        given = None
        if self.given:
            given = self.storage.read_starts("priority", self.window, entered).cpu().numpy()
        self.sampler.turnover(left, entered, given)

    def advance(self, moved: Array) -> tuple[int, int]:
        """Bring the window up to date; returns how many slots left it and how many entered, which then lie in `moved`."""
        self.window.version += 1
        return turnover(self.sizes, self.turn, moved)

    def forget(self) -> None:
        """No row stored so far is offered again."""
        left = self.window.slots(self.window.all())
        self.window.lows[:] = self.window.highs
        self.sampler.turnover(left, left[:0], None)
        self.spent, self.short = False, True

    def due(self) -> int:
        """How many updates to make now."""
        due = self.rate.take() if self.rate.credit and len(self) >= self.batch_size else 0
        self.spent = self.spent or (due > 0 and self.view.once)
        return due

    def room(self) -> int:
        """How many agent steps may be taken before an update can be due, at least 1. With N rows a step these are
        ceil(room / N) steps: nothing is learned before the last of them."""
        wait = self.rate.next - self.rate.steps
        offered = 0 if self.spent else len(self)
        if offered >= self.batch_size:
            return max(wait, 1)
        incomplete = int((-(-self.storage.counts // self.view.every) - self.window.highs).sum())  # may become examples at once
        return max(wait, self.batch_size - offered - incomplete, 1)

    def sample(self) -> Batch:
        """Examples with columns obs, action, reward, discount, next_obs, weight, index and the agent's own, [B, ...] each
        (of a `Rollout`: the columns that its `prepare` returned).

        Raises: ProtoRLError if fewer than `batch_size` examples are stored.
        """
        if len(self) < self.batch_size:
            raise ProtoRLError(
                f"batch_size {self.batch_size} exceeds the {len(self)} examples stored: raise warmup_steps or lower batch_size"
            )
        rows, weight = self.sampler.draw(self.rate.steps)
        columns = self.view.examples(self.storage, self.window, rows, weight)
        if self.deliver_to != self.storage.device:
            leaves = [leaf.numpy() for column in columns.values() for leaf in tree_leaves(column)]
            there = iter(send(leaves, self.deliver_to))
            columns = {name: tree_map(lambda _: next(there), column) for name, column in columns.items()}
        columns["index"] = torch.from_numpy(rows)
        return Batch(columns)

    def feedback(self, batch: Batch, priority: torch.Tensor) -> None:
        """Priorities [B] for the examples of `batch`, for samplers that use them."""
        if self.sampler.wants_feedback:
            self.sampler.feedback(batch.index.numpy(), priority.detach().cpu().numpy())

    # Checkpoints: `state_dict` is small; rows are saved incrementally.

    def marks(self) -> list[int]:
        """Per lane, the first row that may still change: a live episode's last row can become a truncation."""
        return [int(count) - int(live) for count, live in zip(self.storage.counts, self.storage.live)]

    def oldest(self) -> list[int]:
        """Per lane, the oldest row still needed: frame stacks reach a little behind the oldest example."""
        return [max(0, int(count) - self.storage.ring + 1) for count in self.storage.counts]

    def ends(self) -> list[int]:
        """Per lane, the rows written so far."""
        return self.storage.counts.tolist()

    def rows(self, start: list[int]) -> State:
        """Rows from `start` on, per lane."""
        return self.storage.rows(start)

    def restore_rows(self, segment: State) -> None:
        """Put saved rows back; before `load_state_dict`."""
        self.storage.restore_rows(segment)

    def state_dict(self) -> State:
        return {
            "storage": self.storage.state_dict(),
            "sampler": self.sampler.state_dict(),
            "rate": self.rate.state_dict(),
            "lows": self.window.lows.copy(),
            "spent": self.spent,
        }

    def load_state_dict(self, state: State) -> None:
        self.storage.load_state_dict(state["storage"])
        self.rate.load_state_dict(state["rate"])
        self.window.lows[:] = self.window.highs[:] = state["lows"]
        self.spent = state["spent"]
        self.advance(np.empty((2, self.storage.slots), np.int64))
        self.sampler.load_state_dict(state["sampler"])
        self.short = len(self) < self.batch_size
