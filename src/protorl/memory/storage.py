"""Storage: what happened, each row once.

Every environment is a lane with a ring of its own. A row's next observation is the next row's observation; where an episode
ended, the true final observation lies in a side region behind the rings. Frame stacks are stored as single frames and rebuilt
when read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch

from protorl.data import Array, ArraySpec, Chunk, Columns, Field, ProtoRLError, State, TensorObs, tree_leaves, tree_map
from protorl.memory.kept import Kept, Starts
from protorl.memory.kernels import append_rows, stack_rows, unroll_frames
from protorl.memory.tables import DeviceTable, Table, in_main_memory, row_bytes
from protorl.memory.transfer import page_out, send

AT_ONCE = 10_000
"""Rows restored before the pages that they came from are given back."""
BOOK = np.dtype([("reward", np.float32), ("discount", np.float32), ("side", np.int32), ("age", np.int32)])
"""A row's numbers, side by side. side: where its final observation lies, -1: the episode goes on; age: steps since it began."""


EVERY_ROW = Starts()


def human_bytes(n: float) -> str:
    """1234567 -> "1.2 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def frame(spec: ArraySpec) -> Field:
    """What is stored of one observation: one frame of a stack."""
    k = spec.frame_stack
    shape = (spec.shape[0] // k, *spec.shape[1:]) if k > 1 else spec.shape
    return Field(shape, spec.dtype)


@dataclass(frozen=True)
class MemoryPlan:
    """How many bytes a memory of `capacity` steps takes, by column, before anything is allocated. ends: what the last
    observations of episodes take besides, if these are short."""

    capacity: int
    device: str
    columns: dict[str, int]
    available: int
    ends: int = 0

    @property
    def total(self) -> int:
        return sum(self.columns.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {human_bytes(size)}" for name, size in self.columns.items())
        ends = f", with short episodes up to {human_bytes(self.ends)} more" if self.ends else ""
        return f"replay of {self.capacity:,} steps on {self.device}: {human_bytes(self.total)} ({parts}){ends}"

    def check(self) -> None:
        """Raises: ProtoRLError if it does not fit into the memory that is free now."""
        most = self.total + self.ends
        if most > self.available:
            fits = int(self.capacity * self.available / most * 0.9)
            raise ProtoRLError(f"{self}; only {human_bytes(self.available)} are free: lower capacity to at most {fits:,} steps")


def pays_apart(columns: Columns) -> bool:
    """Whether rewards lie in a table of their own: more than a number each, or discounted by a gamma of the row's."""
    return columns.reward_shape != () or "gamma" in columns.extras


def kept_columns(columns: Columns) -> dict[str, Field]:
    """Those that only rows keep where examples start. A priority takes no more than it would take to find it."""
    return {name: field for name, field in columns.extras.items() if field.starts and name != "priority"}


class Sizes:
    """How many rows there are: of each lane (`length`), of its `ring`, in all lanes' rings (`slots`), of final observations at
    first (`sides`), and at first of those that keep columns declared for starts (`kept`)."""

    def __init__(self, columns: Columns, capacity: int, starts: Starts) -> None:
        self.length = capacity // columns.num_envs
        self.stack = max(spec.frame_stack for spec in tree_leaves(columns.obs))
        self.ring = self.length + self.stack  # stack - 1 older frames and the newest observation, which has no row yet
        self.slots = columns.num_envs * self.ring
        self.sides = columns.num_envs + max(self.slots // 16, 16)
        some = columns.num_envs * (self.ring // starts.every + 1) + self.sides // starts.every  # short episodes have more
        self.kept = min(self.slots, some) if kept_columns(columns) else 0


def plan_memory(
    columns: Columns,
    capacity: int,
    device: torch.device | str = "cpu",
    starts: Starts = EVERY_ROW,
    priorities: Callable[[int], int] | None = None,
) -> MemoryPlan:
    """What `Replay(columns, capacity)` would take, with a view of such `starts`, and a sampler that takes so many bytes for so
    many places."""
    device = torch.device(device)
    size = Sizes(columns, capacity, starts)
    few = kept_columns(columns)
    observation = sum(row_bytes(frame(spec)) for spec in tree_leaves(columns.obs))
    sizes = {
        "obs": size.slots * observation,
        "action": size.slots * row_bytes(Field(columns.action.shape, columns.action.dtype)),
        **{name: (size.kept if name in few else size.slots) * row_bytes(field) for name, field in columns.extras.items()},
        **({"reward": size.slots * row_bytes(reward_field(columns))} if pays_apart(columns) else {}),
        **({"priorities": taken} if priorities is not None and (taken := priorities(size.slots)) else {}),
        "bookkeeping": size.slots * (BOOK.itemsize + 4 * (size.kept > 0) + 8 * starts.listed) + size.sides * 12 + size.kept * 4,
    }
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return MemoryPlan(capacity, str(device), sizes, int(free), ends=(size.sides + 1) * observation)


def reward_field(columns: Columns) -> Field:
    return Field(columns.reward_shape, np.dtype(np.float32))


def home_of(columns: Columns, capacity: int, learner: torch.device, starts: Starts = EVERY_ROW) -> torch.device:
    """Where the rows of a replay should live: on the learner's device if they take at most half of what is free there, so that
    no example travels; else in main memory."""
    if learner.type == "cpu":
        return learner
    plan = plan_memory(columns, capacity, learner, starts)
    return learner if 2 * (plan.total + plan.ends) <= plan.available else torch.device("cpu")


class Storage:
    """Rings of `capacity // num_envs` steps per lane.

    Row t of lane i is in slot i * ring + t % ring; slots number 0 .. `slots` - 1. Observations have more rows behind them: row
    `slots + s` is the final observation in side slot s, and the last row is a zero frame.

    starts: where examples start: what columns that are stored for starts only are kept for. paid: columns that pay streams of
    reward; they stay in main memory, as rewards do. priorities: bytes that a sampler takes for so many places, to be told with
    the rest.

    Raises: ProtoRLError if the memory does not fit, or a step does not match the columns.
    """

    def __init__(
        self,
        columns: Columns,
        capacity: int,
        device: torch.device | str = "cpu",
        *,
        starts: Starts = EVERY_ROW,
        paid: Collection[str] = (),
        priorities: Callable[[int], int] | None = None,
    ) -> None:
        if capacity < columns.num_envs:
            raise ProtoRLError(
                f"capacity {capacity} is less than one step for each of the {columns.num_envs} environments: raise capacity"
            )
        plan = plan_memory(columns, capacity, device, starts, priorities)
        logging.getLogger("protorl").info(str(plan))
        plan.check()
        self.columns, self.device = columns, torch.device(device)
        self.lanes = columns.num_envs
        size = Sizes(columns, capacity, starts)
        self.length, self.stack, self.ring, self.slots = size.length, size.stack, size.ring, size.slots
        self.sides = size.sides

        self.counts = np.zeros(self.lanes, np.int64)
        self.live = np.zeros(self.lanes, np.bool_)
        self.book = np.zeros(self.slots, BOOK)
        self.book["side"] = -1
        self.side_row = np.zeros(self.sides, np.int64)
        self.free = np.arange(self.sides, dtype=np.int32)
        self.free_count = self.sides
        self.out = np.empty((6, 1, self.lanes), np.int64)  # for one step of all lanes
        self.state = (self.counts, self.live, self.book, self.side_row, self.free)

        self.here = in_main_memory(self.device)
        self.stacks = True  # of frames are made here; False: where sequences are delivered, for which fewer frames must travel
        table = Table if self.here else DeviceTable
        self.obs = tree_map(lambda spec: table(frame(spec), self.slots + self.sides + 1, self.device), columns.obs)
        few = kept_columns(columns)
        fields = {"action": Field(columns.action.shape, columns.action.dtype)}
        fields |= {name: field for name, field in columns.extras.items() if name not in few}
        if pays_apart(columns):
            fields["reward"] = reward_field(columns)
        near = {"reward", "gamma", "priority", *paid}  # read by the view, or told to the sampler
        self.tables: dict[str, Table] = {
            name: (Table if name in near else table)(field, self.slots, self.device) for name, field in fields.items()
        }
        self.readable = {name: table for name, table in self.tables.items() if name not in near}
        self.kept = Kept({name: table(field, size.kept + 1, self.device) for name, field in few.items()}, self.slots, starts)
        self.before = ["action", *(name for name, field in columns.extras.items() if field.last)]
        self.pays_apart = pays_apart(columns)
        self.reward_axes = 2 + len(columns.reward_shape)
        self.leaves: list[Table] = tree_leaves(self.obs)
        self.clear_zero_frame()

    def clear_zero_frame(self) -> None:
        for table in self.leaves:
            table.clear(-1)

    def add(self, chunk: Chunk) -> int:
        """Write a chunk; returns how many of its rows are valid."""
        steps, lanes = chunk.valid.shape
        if steps > self.length:
            return sum(self.add(piece) for piece in chunk.pieces(self.length))
        out = self.out if (steps, lanes) == (1, self.lanes) else np.empty((6, steps, lanes), np.int64)
        valid, firsts, moves = self.append(chunk, out)
        slots, successors = out[0], out[1]
        if moves:
            for table in self.leaves:
                table.copy(*out[4:].reshape(2, -1)[:, :moves])
        if firsts:
            self.write_first(chunk, out[3].reshape(-1)[:firsts], slots)
        full = valid == slots.size
        if not full:
            slots, successors = slots[chunk.valid], successors[chunk.valid]
        for table, values in zip(self.leaves, tree_leaves(chunk.next_obs)):
            values = values if full else values[chunk.valid]
            table.write(successors, values if self.stack == 1 else newest_frame(values, table.field))
        self.tables["action"].write(slots, chunk.action if full else chunk.action[chunk.valid])
        for name in self.columns.extras:
            if name not in chunk.extras:
                raise ProtoRLError(f"the agent declared the column {name!r} but its steps do not carry it in Act.extras")
            if name not in self.kept.tables:
                values = chunk.extras[name]
                self.tables[name].write(slots, values if full else values[chunk.valid])
        if self.pays_apart:
            self.tables["reward"].write(slots, chunk.reward if full else chunk.reward[chunk.valid])
        if self.kept.tables:
            self.kept.write(slots.reshape(-1), self.book["age"], chunk.valid, chunk.extras)
        return valid

    def append(self, chunk: Chunk, out: Array) -> tuple[int, int, int]:
        """Book the rows; returns how many are valid, how many first, and how many observations must move."""
        _, _, reward, discount, terminated, truncated, _, first, valid, _, lanes = chunk
        if reward.ndim != self.reward_axes:
            raise ProtoRLError(
                f"rewards of shape {reward.shape[2:]} a row do not fit a memory of {self.columns.reward_shape}: declare "
                "Columns.reward_shape"
            )
        if self.pays_apart:  # the book's rewards are not read
            reward = discount
        free, rows, firsts, moves = append_rows(
            self.ring, self.free_count, self.state, (reward, discount, terminated, truncated, first, valid, lanes), out
        )
        if free == -1:
            self.grow_sides()
            return self.append(chunk, out)
        if free == -2:
            wrong = next(lane for lane in lanes if not 0 <= lane < self.lanes)
            raise ProtoRLError(
                f"a step of lane {wrong} does not fit a memory of lanes 0 to {self.lanes - 1}: build the memory from "
                "agent.columns(env.spec) of the same environment"
            )
        self.free_count = free
        return rows, firsts, moves

    def write_first(self, chunk: Chunk, rows: Array, slots: Array) -> None:
        """The first observations of episodes, at the places `rows` in the chunk; their stacks must be padded as their
        specification says."""
        specs = tree_leaves(self.columns.obs)
        for spec, table, values in zip(specs, self.leaves, tree_leaves(chunk.obs)):
            values = values.reshape(-1, *spec.shape)[rows]
            newest = newest_frame(values, table.field)
            if spec.frame_stack > 1:
                older = values[:, : -newest.shape[1]].reshape(len(values), spec.frame_stack - 1, *newest.shape[1:])
                if not np.array_equal(
                    older, np.broadcast_to(newest[:, None] if spec.stack_padding == "reset" else 0, older.shape)
                ):
                    raise ProtoRLError(
                        f"an episode began with a frame stack that is not padded by {spec.stack_padding!r} as its "
                        "specification says, so stacks cannot be rebuilt from single frames: set ArraySpec.stack_padding, or "
                        "frame_stack=1 to store whole stacks"
                    )
            table.write(slots.reshape(-1)[rows], newest)

    def head(self, lane: int) -> int:
        """The slot that holds a live lane's newest observation, whose row is still to come."""
        return int(lane * self.ring + self.counts[lane] % self.ring)

    def grow_sides(self) -> None:
        """Double the side region: episodes turned out very short."""
        old, self.sides = self.sides, 2 * self.sides
        for table in self.leaves:
            table.grow(self.slots + self.sides + 1)
        self.clear_zero_frame()
        self.side_row = np.concatenate([self.side_row, np.zeros(old, np.int64)])
        free = np.arange(self.sides, dtype=np.int32)
        free[: self.free_count] = self.free[: self.free_count]
        free[self.free_count : self.free_count + old] = np.arange(old, self.sides)
        self.free, self.free_count = free, self.free_count + old
        self.state = (self.counts, self.live, self.book, self.side_row, self.free)

    def examples(
        self,
        slots: Array,
        successors: Array,
        columns: Mapping[str, Array],
        beyond: Array | None = None,
    ) -> dict[str, TensorObs]:
        """The rows in `slots` [B], with the observations at `successors` [B] (slots, or side rows) as `next_obs`, frame stacks
        rebuilt, and further `columns`: tensors on the device. beyond: rows of more observations, `beyond`."""
        specs = tree_leaves(self.columns.obs)
        places = [place for spec in specs for place in self.found(spec, slots, successors)]
        if beyond is not None:
            places += [place for spec in specs for place in self.found(spec, slots, beyond)[1:]]
        if self.kept.tables:
            places.append(self.kept.before(slots, self.book["age"], self.ring))
        at, *there = self.place(slots, *places, *columns.values())
        read: dict[str, TensorObs] = {name: table.read(at) for name, table in self.readable.items()}
        pairs = [
            table.read_pair(there[2 * i], there[2 * i + 1], spec.shape)
            for i, (spec, table) in enumerate(zip(specs, self.leaves))
        ]
        named = list(zip(("obs", "next_obs"), zip(*pairs)))
        if beyond is not None:
            more = zip(self.leaves, there[2 * len(specs) :], specs)
            named.append(("beyond", tuple(table.read(at.reshape(-1)).reshape(-1, *spec.shape) for table, at, spec in more)))
        for name, leaves in named:
            given = iter(leaves)
            read[name] = tree_map(lambda _, given=given: next(given), self.columns.obs)
        read |= {name: table.read(there[len(places) - 1]) for name, table in self.kept.tables.items()}
        for name, values in zip(columns, there[len(places) :]):
            read[name] = torch.from_numpy(values) if self.here else values
        return read

    def unrolls(
        self, slots: Array, burn_in: int, steps: Array, before: Array, shown: Array, columns: Mapping[str, Array]
    ) -> dict[str, TensorObs]:
        """What `unroll_rows` found of sequences whose row `burn_in` is the one in `slots` [B]: the columns of `steps`
        [T, B, ...]; of those `before` them the actions and what is declared `last`; observations, `frames`: stacks
        [T, B, ...], or if these are made
        elsewhere, single ones [T + k - 1, B, ...]; columns kept for starts, of row 0 [B, ...]; and further `columns`. Tensors
        on the device."""
        specs = tree_leaves(self.columns.obs)
        frames = [self.frames(slots, burn_in, shown, spec) for spec in specs]
        there = self.place(steps, before, self.kept.before(slots, self.book["age"], self.ring), *frames, *columns.values())
        read: dict[str, TensorObs] = {name: table.gather(there[0]) for name, table in self.readable.items()}
        read["before"] = {name: self.tables[name].gather(there[1]) for name in self.before}
        read |= {name: table.read(there[2]) for name, table in self.kept.tables.items()}
        ks = [spec.frame_stack if self.stacks else 1 for spec in specs]
        leaves = iter([table.gather(rows, k) for table, rows, k in zip(self.leaves, there[3:], ks)])
        read["frames"] = tree_map(lambda _: next(leaves), self.columns.obs)
        for name, values in zip(columns, there[3 + len(specs) :]):
            read[name] = torch.from_numpy(values) if self.here else values
        return read

    def frames(self, slots: Array, burn_in: int, shown: Array, spec: ArraySpec) -> Array:
        """The rows [T + k - 1, B] of the frames of unrolled observations [T, B]."""
        if spec.frame_stack == 1:
            return shown
        rows = np.empty((len(shown) + spec.frame_stack - 1, len(slots)), np.int64)
        zero = self.slots + self.sides if spec.stack_padding == "zero" else -1
        unroll_frames(slots, self.ring, burn_in, zero, self.book, shown, rows)
        return rows

    def found(self, spec: ArraySpec, slots: Array, successors: Array) -> tuple[Array, Array]:
        """The rows of a table where the observations at `slots` and `successors` are; [B, k] for stacks of k frames."""
        return (self.stacked(slots, spec), self.stacked(successors, spec)) if spec.frame_stack > 1 else (slots, successors)

    def place(self, *arrays: Array) -> list[Any]:
        """The arrays where the rows are: themselves in main memory, else on the device in one transfer, together with the rows
        that still wait to go there."""
        if self.here:
            return list(arrays)
        tables = (*self.leaves, *self.tables.values(), *self.kept.tables.values())
        late: list[Any] = [table for table in tables if table.waiting]
        once = {id(array): array for array in arrays}
        there = send([*(part for table in late for part in table.unsent()), *once.values()], self.device)
        for i, table in enumerate(late):
            table.data.index_copy_(0, there[2 * i], there[2 * i + 1])
        sent = dict(zip(once, there[2 * len(late) :]))
        return [sent[id(array)] for array in arrays]

    def stacked(self, rows: Array, spec: ArraySpec) -> Array:
        """The rows [B, k] whose frames make the stacks at `rows` [B]."""
        frames = np.empty((len(rows), spec.frame_stack), np.int64)
        zero = self.slots + self.sides if spec.stack_padding == "zero" else -1
        stack_rows(rows, self.ring, self.counts, self.live, self.book, self.side_row, zero, frames)
        return frames

    # Rows for an incremental checkpoint

    def rows(self, start: list[int]) -> State:
        """Rows start[lane] .. counts[lane] - 1 of every lane as far as they are still there, final observations included: those
        up to the end of the ring, and those that begin it again ("wrapped"). Big rows on the CPU are not copied: such tensors
        are the memory itself, good until the next step."""
        parts: State = {"lanes": [], "wrapped": []}
        for lane, oldest in enumerate(start):
            count = int(self.counts[lane])
            first = max(oldest, count - self.ring)
            turn = max(first, (count - 1) // self.ring * self.ring)
            parts["lanes"].append(self.piece(lane, first, turn))
            parts["wrapped"].append(self.piece(lane, turn, count))
        return parts

    def piece(self, lane: int, first: int, end: int) -> State:
        """Rows first .. end - 1 of a lane, which lie side by side."""
        place = lane * self.ring + first % self.ring
        slots = slice(place, place + end - first)
        sides = self.final_rows(np.arange(slots.start, slots.stop))
        return {
            "start": first,
            "book": {name: self.book[name][slots].copy() for name in ("reward", "discount", "age")},
            "final": self.book["side"][slots] >= 0,
            "obs": [table.span(slots) for table in self.leaves],
            "final_obs": [table.read(sides).cpu() for table in self.leaves],
            "tables": {name: table.span(slots) for name, table in self.tables.items()},
            "kept": self.kept.piece(np.arange(slots.start, slots.stop)),
        }

    def final_rows(self, slots: Array) -> Array:
        """Where the final observations of those rows lie that ended an episode."""
        side = self.book["side"][slots]
        return self.slots + side[side >= 0].astype(np.int64)

    def restore_rows(self, segment: State) -> None:
        """Put rows back where they were; later segments win over earlier ones."""
        for lane, part in [*enumerate(segment["lanes"]), *enumerate(segment.get("wrapped", []))]:
            final = np.asarray(part["final"])
            slots = lane * self.ring + np.arange(part["start"], part["start"] + len(final)) % self.ring
            stale = self.final_rows(slots) - self.slots
            self.free[self.free_count : self.free_count + len(stale)] = stale
            self.free_count += len(stale)
            for name, values in part["book"].items():
                self.book[name][slots] = np.asarray(values)
            self.book["side"][slots] = -1
            ends = slots[final]
            while self.free_count < len(ends) + self.lanes:
                self.grow_sides()
            self.free_count -= len(ends)
            self.book["side"][ends] = self.free[self.free_count : self.free_count + len(ends)]
            self.side_row[self.book["side"][ends]] = ends
            for table, obs, final_obs in zip(self.leaves, part["obs"], part["final_obs"]):
                for begin in range(0, len(slots), AT_ONCE):
                    piece = obs[begin : begin + AT_ONCE]
                    table.write(slots[begin : begin + AT_ONCE], piece.numpy())
                    page_out(piece)
                table.write(self.final_rows(slots), final_obs.numpy())
            for name, table in self.tables.items():
                table.write(slots, part["tables"][name].numpy())
            whole = {"which": np.ones(len(slots), np.bool_), **part.get("starts", {})}  # as rows were saved before sequences
            self.kept.restore(slots, part.get("kept", whole))

    def state_dict(self) -> State:
        """All but the rows: lane counters and the newest observation of live lanes."""
        heads = np.array([self.head(lane) for lane in range(self.lanes)])
        zero = np.full_like(heads, self.slots + self.sides)  # a lane between episodes has no newest observation
        heads = np.where(self.live, heads, zero)
        return {
            "length": self.length,
            "starts": [self.kept.starts.every, self.kept.starts.before],
            "counts": self.counts.copy(),
            "live": self.live.copy(),
            "heads": tree_map(lambda table: table.read(heads).cpu(), self.obs),
        }

    def load_state_dict(self, state: State) -> None:
        if state["length"] != self.length or len(state["counts"]) != self.lanes:
            raise ProtoRLError(
                f"the checkpoint's memory has {len(state['counts'])} lanes of {state['length']} steps, this one "
                f"{self.lanes} of {self.length}: resume with the same capacity and num_envs"
            )
        every, before = state.get("starts", EVERY_ROW[:2])
        if (every, before) != self.kept.starts[:2]:
            ours = self.kept.starts
            raise ProtoRLError(
                f"the examples of the checkpoint's memory start at every {every} rows of an episode, with {before} before, of "
                f"this one at every {ours.every}, with {ours.before}: resume with the same view"
            )
        self.counts[:], self.live[:] = state["counts"], state["live"]
        heads = np.array([self.head(lane) for lane in range(self.lanes)])
        for table, values in zip(self.leaves, tree_leaves(state["heads"])):
            table.write(heads[self.live], values.numpy()[self.live])


def newest_frame(values: Array, field: Field) -> Array:
    """The newest frame [..., C, H, W] of observations [..., k * C, H, W]; all of an observation that is not stacked."""
    front = values.ndim - len(field.shape)
    if values.shape[front:] == field.shape:
        return values
    return values[(slice(None),) * front + (slice(-field.shape[0], None),)]
