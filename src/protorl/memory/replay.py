"""Replay = Storage (what happened) + View (what an example is) + Sampler (which) + Rate (when)."""

from __future__ import annotations

import numpy as np
import torch

from protorl.data import Array, Batch, Chunk, Columns, ProtoRLError, State, tree_leaves, tree_map
from protorl.memory.rate import Rate
from protorl.memory.samplers import Sampler, Uniform
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
        self.storage = Storage(columns, capacity, device, starts=self.view.starts, paid=paid, priorities=priorities)
        self.rate = Rate() if rate is None else rate
        self.batch_size = batch_size
        self.deliver_to = self.storage.device if deliver_to is None else torch.device(deliver_to)
        self.storage.stacks = self.deliver_to == self.storage.device
        self.window = self.view.window(self.storage)
        if batch_size > self.window.most:
            raise ProtoRLError(
                f"batch_size {batch_size} exceeds the {self.window.most} examples that capacity {capacity} holds of "
                f"{self.storage.lanes} environments: raise capacity or lower batch_size"
            )
        self.sampler.bind(self.window, batch_size, seed)
        self.given = "priority" in columns.extras
        self.spent = False  # a burst of updates has used what the view offers once
        self.short = True  # there are fewer than `batch_size` examples
        self.moved = self.window.room_for(1)

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
        moved = self.moved if steps == 1 else self.window.room_for(steps)
        left, entered = self.window.advance(moved)
        if self.sampler.wants_turnover:
            self.turnover(moved[0, :left], moved[1, :entered])
        idle = 0
        if self.short:  # if there is enough now, then since the last of these steps: `room` was for no more
            self.short = len(self) < self.batch_size
            idle = valid if self.short else valid - int(np.count_nonzero(chunk.valid[-1]))
        self.rate.count(valid, idle)

    def expected(self, steps: int) -> int:
        """How many updates a training of so many agent steps makes; the first examples may come a little later, or of
        short episodes earlier."""
        return self.rate.expected(steps, self.idle)

    @property
    def idle(self) -> int:
        """About how many agent steps come while there are fewer than `batch_size` examples."""
        lanes = self.storage.lanes
        return lanes * (self.window.steps_for(-(-self.batch_size // lanes)) - 1)

    def turnover(self, left: Array, entered: Array) -> None:
        """Tell the sampler which places left the window and which entered it."""
        given = None
        if self.given:
            given = self.storage.tables["priority"].array[self.window.begins(entered)]
        self.sampler.turnover(left, entered, given)

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
        return max(wait, self.batch_size - offered - self.window.incomplete, 1)

    def ahead(self, taken: int = 0) -> bool:
        """Whether actors must wait that have taken `taken` agent steps more than are stored; never before `batch_size` examples
        are there."""
        return len(self) >= self.batch_size and self.rate.ahead(taken)

    def sample(self) -> Batch:
        """Examples with columns obs, action, reward, discount, next_obs, weight, index and the agent's own, [B, ...] each
        (of a `Rollout`: the columns that its `prepare` returned; of a `Sequence`: those that it says).

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
        return self.view.batch(columns)

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
            "highs": self.window.highs.copy(),
            "spent": self.spent,
        }

    def load_state_dict(self, state: State) -> None:
        self.storage.load_state_dict(state["storage"])
        self.rate.load_state_dict(state["rate"])
        self.window.lows[:] = self.window.highs[:] = state["lows"]
        self.spent = state["spent"]
        self.window.advance(np.empty((2, self.storage.slots), np.int64))
        if not np.array_equal(self.window.highs, state.get("highs", self.window.highs)):
            raise ProtoRLError(
                f"the checkpoint's memory has {int((state['highs'] - state['lows']).sum())} examples and this one's view finds "
                f"{len(self)} in it: resume with the same view"
            )
        self.sampler.load_state_dict(state["sampler"])
        self.short = len(self) < self.batch_size
