"""Compiled loops over a memory's bookkeeping: a ring of rows per lane (environment), sum trees, n-step windows, sequences.

Rows are numbered per lane by a serial 0, 1, 2, ... that never repeats; row t of lane i lives in slot i * ring + t % ring.

Arrays that belong together go in as one plain tuple, and get their names inside: to recognise a NamedTuple takes Numba a
microsecond longer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from protorl.data import Array
from protorl.jit import compiled


class Ring(NamedTuple):
    """What is known of the rows that are stored."""

    counts: Array  # [N] rows written per lane
    live: Array  # [N] bool: the lane's last episode goes on
    book: Array  # [S] records reward, discount, side, age
    side_row: Array  # the slot that each side slot follows
    free: Array  # stack of free side slots


class Rows(NamedTuple):
    """The bookkeeping of a chunk, [T, n] each."""

    reward: Array
    discount: Array
    terminated: Array
    truncated: Array
    first: Array
    valid: Array
    lanes: Array  # [n]


@compiled()
def append_rows(
    ring: int,
    free_count: int,
    state: tuple[Array, ...],  # a `Ring`
    chunk: tuple[Array, ...],  # its `Rows`
    out: Array,  # [6, T, n] int64
) -> tuple[int, int, int, int]:
    """Write a chunk's bookkeeping; returns the free side slots left, and how many rows are valid, how many first, and how many
    observations must move. At most `ring` steps at once.

    out: of each row its slot (-1 where it is not valid), where its next observation goes (a slot, or number of slots + side
    slot) and its serial; then three lists: the places in the chunk of first rows, and of observations that must move before
    any is written, whence and whither.

    An episode that begins although the lane's last one never ended cuts that one: its last row becomes a truncation. Nothing is
    written, and the count is -1, where side slots may not suffice, and -2 where a lane does not exist.
    """
    counts, live, book, side_row, free = Ring(*state)
    rows = Rows(*chunk)
    steps, lanes = rows.valid.shape
    ends = 0
    for i in range(lanes):
        if not 0 <= rows.lanes[i] < counts.shape[0]:
            return -2, 0, 0, 0
        for t in range(steps):
            if rows.valid[t, i] and (rows.terminated[t, i] or rows.truncated[t, i]):
                ends += 1
            if rows.valid[t, i] and rows.first[t, i]:
                ends += 1
    if ends > free_count:
        return -1, 0, 0, 0
    slots, successors, serials = out[0], out[1], out[2]
    begins, sources, targets = out[3], out[4], out[5]
    total = book.shape[0]
    valid = 0
    firsts = 0
    moves = 0
    for i in range(lanes):
        lane = rows.lanes[i]
        before = -1  # the lane's row before, in this chunk
        for t in range(steps):
            if not rows.valid[t, i]:
                slots[t, i] = -1
                successors[t, i] = -1
                continue
            valid += 1
            serial = counts[lane]
            slot = lane * ring + serial % ring
            if live[lane]:
                last = lane * ring + (serial - 1) % ring
                if rows.first[t, i]:
                    free_count -= 1
                    side = free[free_count]
                    book[last].side = side
                    side_row[side] = last
                    live[lane] = False
                    if before >= 0:
                        successors[before, i] = total + side
                    else:
                        sources[moves // lanes, moves % lanes] = slot
                        targets[moves // lanes, moves % lanes] = total + side
                        moves += 1
            if book[slot].side >= 0:
                free[free_count] = book[slot].side
                free_count += 1
            if live[lane]:
                book[slot].age = book[lane * ring + (serial - 1) % ring].age + 1
            else:
                book[slot].age = 0
                begins[firsts // lanes, firsts % lanes] = t * lanes + i
                firsts += 1
            book[slot].reward = rows.reward[t, i]
            book[slot].discount = rows.discount[t, i]
            slots[t, i] = slot
            serials[t, i] = serial
            ended = rows.terminated[t, i] or rows.truncated[t, i]
            if ended:
                free_count -= 1
                side = free[free_count]
                book[slot].side = side
                side_row[side] = slot
                successors[t, i] = total + side
            else:
                book[slot].side = -1
                successors[t, i] = lane * ring + (serial + 1) % ring
            live[lane] = not ended
            counts[lane] = serial + 1
            before = t
    return free_count, valid, firsts, moves


@compiled()
def nstep_window(
    slots: Array,  # [B]
    ring: int,
    n: int,
    gamma: float,
    clip: float,
    scale: float,
    book: Array,  # [S] records reward, discount, side, age
    returns: Array,  # out [B] float32
    discounts: Array,  # out [B] float32
    successors: Array,  # out [B] int64: slot, or number of slots + side slot
) -> None:
    """R = scale * sum_{k<m} gamma^k r_{t+k} and the discount gamma^m * prod d, where m <= n stops at the episode's end and at a
    zero discount."""
    total = book.shape[0]
    for b in range(slots.shape[0]):
        start = slots[b] // ring * ring
        position = slots[b] - start
        g = 1.0
        ret = 0.0
        side = -1
        for _ in range(n):
            row = book[start + position]
            ret += g * min(max(row.reward, -clip), clip)
            g *= gamma * row.discount
            position += 1
            if position == ring:
                position = 0
            side = row.side
            if side >= 0 or g == 0.0:
                break
        returns[b] = scale * ret
        discounts[b] = g
        successors[b] = total + side if side >= 0 else start + position


@compiled()
def stream_window(
    slots: Array,  # [B]
    ring: int,
    n: int,
    gamma: float,
    own: Array,  # [S] float32: each row's own gamma; empty: `gamma`
    episodic: bool,
    clip: float,
    scale: float,
    pay: Array,  # [S, M] float32
    book: Array,  # [S] records reward, discount, side, age
    returns: Array,  # out [B, M] float32
    discounts: Array,  # out [B] float32
    successors: Array,  # out [B] int64: slot, or number of slots + side slot
) -> None:
    """As `nstep_window`, of rewards that lie in a table. A stream that is not episodic takes n rows whatever ended there, its
    discount is gamma^n, and its successor is the row after them."""
    total = book.shape[0]
    for b in range(slots.shape[0]):
        start = slots[b] // ring * ring
        for m in range(pay.shape[1]):
            position = slots[b] - start
            g = 1.0
            ret = 0.0
            side = -1
            for _ in range(n):
                slot = start + position
                ret += g * min(max(pay[slot, m], -clip), clip)
                g *= own[slot] if own.shape[0] > 0 else gamma
                position += 1
                if position == ring:
                    position = 0
                if episodic:
                    g *= book[slot].discount
                    side = book[slot].side
                    if side >= 0 or book[slot].discount == 0.0:
                        break
            returns[b, m] = scale * ret
            discounts[b] = g
            successors[b] = total + side if side >= 0 else start + position


@compiled()
def stack_rows(rows: Array, ring: int, counts: Array, live: Array, book: Array, side_row: Array, zero: int, out: Array) -> None:
    """The k rows whose frames make each stack [B, k], oldest first, for observations at `rows` [B].

    A row >= the number of slots is a final observation in the side region; its stack continues at the row it followed,
    `side_row`. A live lane's newest observation has no row in the book yet: it follows the row before. `zero` is the row of
    a zero frame that pads a young episode's stack, or -1 to repeat the episode's first frame.
    """
    k = out.shape[1]
    total = book.shape[0]
    for b in range(rows.shape[0]):
        out[b, k - 1] = rows[b]
        newest = rows[b]
        back = 0
        if newest >= total:
            newest = side_row[newest - total]
            back = 1
        lane = newest // ring
        position = newest % ring
        if back == 0 and live[lane] and position == counts[lane] % ring:
            age = book[lane * ring + (position - 1) % ring].age + 1
        else:
            age = book[newest].age + back
        for j in range(1, k):
            if j <= age:
                out[b, k - 1 - j] = lane * ring + (position - j + back) % ring
            elif zero >= 0:
                out[b, k - 1 - j] = zero
            else:
                out[b, k - 1 - j] = out[b, k - j]


@compiled()
def gather_pairs(table: Array, rows: Array, successors: Array, obs: Array, next_obs: Array) -> None:
    """Copy rows [B, k] and successors [B, k] of `table` [R, W] to `obs` and `next_obs` [B, k, W], example by example: the
    frames that an example's two stacks share come from memory once, and from the cache the second time."""
    for b in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            row = rows[b, j]
            for w in range(table.shape[1]):  # a loop over words: faster than a slice, which Numba copies byte by byte
                obs[b, j, w] = table[row, w]
        for j in range(rows.shape[1]):
            row = successors[b, j]
            for w in range(table.shape[1]):
                next_obs[b, j, w] = table[row, w]


class Turn(NamedTuple):
    """What decides which rows can be sampled."""

    counts: Array  # as in a `Ring`
    live: Array
    book: Array
    lows: Array  # [N] the range of serials that can be sampled
    highs: Array


@compiled()
def turnover(sizes: tuple[int, ...], state: tuple[Array, ...], out: Array) -> tuple[int, int]:
    """Advance each lane's range of sampleable rows [low, high); those older than `length` leave, and what has left stays out;
    those whose window of pending + 1 steps is complete enter. Places that leave go into out[0], places that enter into out[1].

    Row t of lane i has the place i * ring + t % ring. flows: windows go on through ends of episodes, and the observation after
    them must be there. sizes: ring, length, pending, flows. state: a `Turn`.
    """
    ring, length, pending, flows = sizes
    counts, live, book, lows, highs = Turn(*state)
    left = 0
    entered = 0
    for i in range(counts.shape[0]):
        count = counts[i]
        high = count
        if flows:
            high = count - pending if live[i] else count - pending - 1
        elif live[i]:
            high = count - min(pending, book[i * ring + (count - 1) % ring].age + 1)
        low = max(count - length, lows[i])
        high = max(high, low)
        for t in range(lows[i], low):
            out[0, left] = i * ring + t % ring
            left += 1
        for t in range(max(highs[i], low), high):
            out[1, entered] = i * ring + t % ring
            entered += 1
        lows[i] = low
        highs[i] = max(high, highs[i])
    return left, entered


class SequenceTurn(NamedTuple):
    """What decides which sequences can be sampled."""

    counts: Array  # as in a `Ring`
    live: Array
    book: Array
    lows: Array  # [N] the range of starts, counted per lane, that can be sampled
    highs: Array
    judged: Array  # [N] the rows before this one are known to start a sequence, or not to
    begins: Array  # [N * ring] the row where each start is: start k of lane i at i * ring + k % ring


@compiled()
def turnover_sequences(sizes: tuple[int, ...], state: tuple[Array, ...], out: Array) -> tuple[int, int]:
    """Advance each lane's range of sampleable starts [low, high) and list the rows where they are.

    Starts are an episode's rows 0, period, 2 * period, ... One enters once `pending` rows follow it, or its episode has ended;
    then only if the start before it does not train all of its rows, the `trained` from it on. It leaves once the row `behind`
    rows before it, or the first of its episode, is older than `length`. Places that leave go into out[0], places that enter
    into out[1]. sizes: ring, length, period, trained, pending, behind. state: a `SequenceTurn`.
    """
    ring, length, period, trained, pending, behind = sizes
    counts, live, book, lows, highs, judged, begins = SequenceTurn(*state)
    left = 0
    entered = 0
    for i in range(counts.shape[0]):
        count = counts[i]
        oldest = count - length
        base = i * ring
        low = lows[i]
        high = highs[i]
        while low < high:
            row = begins[base + low % ring]
            if row >= oldest and row - min(book[base + row % ring].age, behind) >= oldest:
                break
            out[0, left] = base + low % ring
            left += 1
            low += 1
        row = max(judged[i], oldest)
        while row < count:
            age = book[base + row % ring].age
            if age % period == 0:
                newest = book[base + (count - 1) % ring].age
                if newest - age == count - 1 - row:  # of the lane's newest episode
                    end = count
                    over = not live[i]
                else:
                    end = row + 1
                    while end <= row + pending and book[base + (end - 1) % ring].side < 0:
                        end += 1
                    over = True
                if not over and end <= row + pending:
                    break
                new = age == 0 or row - period + trained < end
                if new and row - min(age, behind) >= oldest:  # else all starts before it have left, too
                    begins[base + high % ring] = row
                    out[1, entered] = base + high % ring
                    entered += 1
                    high += 1
            row += 1
        lows[i] = low
        highs[i] = high
        judged[i] = row
    return left, entered


@compiled()
def unroll_rows(
    slots: Array,  # [B]
    ring: int,
    burn_in: int,
    book: Array,  # [S] records reward, discount, side, age
    steps: Array,  # out [T, B] int64: the slot of each row's step; where there is none, of the step nearest to it
    before: Array,  # out [T, B] int64: the slot of the step before
    shown: Array,  # out [T, B] int64: where the observation is: slot, or number of slots + side slot
    first: Array,  # out [T, B] bool: starts an episode
    ended: Array,  # out [T, B] bool: the episode ended with this step
    real: Array,  # out [T, B] bool: is a step
) -> None:
    """The rows of sequences whose row `burn_in` is the one in `slots`, all of one episode.

    Where the episode is younger than that its first row is repeated in front; where it is over, its final observation behind.
    The last row is an observation only.
    """
    total = book.shape[0]
    last = steps.shape[0] - 1
    for b in range(slots.shape[0]):
        base = slots[b] // ring * ring
        age = book[slots[b]].age
        lead = min(burn_in, age)
        begin = burn_in - lead
        slot = base + (slots[b] - base - lead) % ring
        previous = base + (slot - base - 1) % ring if age > lead else slot
        for t in range(begin):
            steps[t, b] = before[t, b] = shown[t, b] = slot
            first[t, b] = True
            ended[t, b] = real[t, b] = False
        over = False
        for t in range(begin, last + 1):
            shown[t, b] = slot
            before[t, b] = previous
            first[t, b] = t == begin and age == lead
            if over or t == last:
                steps[t, b] = previous
                ended[t, b] = real[t, b] = False
                continue
            steps[t, b] = previous = slot
            real[t, b] = True
            side = book[slot].side
            over = side >= 0
            ended[t, b] = over
            if over:
                slot = total + side
            else:
                slot = base + (slot - base + 1) % ring


@compiled()
def unroll_frames(
    slots: Array,  # [B]
    ring: int,
    burn_in: int,
    zero: int,
    book: Array,  # [S] records reward, discount, side, age
    shown: Array,  # [T, B] of `unroll_rows`
    out: Array,  # [k - 1 + T, B] int64
) -> None:
    """The rows of the newest frames of `shown`, and of the k - 1 older ones that the first stack needs: k neighbours make a
    stack. Before the episode's first, `zero` is the row of a zero frame, or -1 to repeat the first."""
    back = out.shape[0] - shown.shape[0]
    for b in range(slots.shape[0]):
        base = slots[b] // ring * ring
        age = book[slots[b]].age
        pad = zero if zero >= 0 else base + (slots[b] - base - age) % ring
        for j in range(out.shape[0]):
            later = j - back - burn_in  # than the start
            if age + later < 0:
                out[j, b] = pad
            elif j < back:
                out[j, b] = base + (slots[b] - base + later) % ring
            else:
                out[j, b] = shown[j - back, b]


@compiled()
def unroll_returns(
    pay: Array,  # [T, B, M] float32: rewards
    discount: Array,  # [T, B] float32: 1, or 0 where nothing is bootstrapped
    real: Array,  # [T, B] bool: is a step
    n: int,
    gamma: float,
    own: Array,  # [T, B] float32: each row's own gamma; empty: `gamma`
    episodic: bool,
    clip: float,
    scale: float,
    returns: Array,  # out [T, B, M] float32
    discounts: Array,  # out [T, B] float32
    successors: Array,  # out [T, B] int64: the row that is bootstrapped from
) -> None:
    """R = scale * sum_{k<m} gamma^k r_{t+k} and the discount gamma^m * prod d of each row, where m <= n stops with the steps
    and, if the rewards are episodic, after a zero discount; else the discount is gamma^m. Both are 0 where there is no step."""
    for b in range(pay.shape[1]):
        for t in range(pay.shape[0]):
            discounts[t, b] = 0.0
            successors[t, b] = t
            for m in range(pay.shape[2]):
                g = 1.0
                ret = 0.0
                row = t
                while row < t + n and real[row, b]:
                    ret += g * min(max(pay[row, b, m], -clip), clip)
                    g *= own[row, b] if own.shape[0] > 0 else gamma
                    row += 1
                    if episodic:
                        g *= discount[row - 1, b]
                        if discount[row - 1, b] == 0.0:
                            break
                returns[t, b, m] = scale * ret
                if row > t:
                    discounts[t, b] = g
                    successors[t, b] = row


@compiled()
def gather_stacks(table: Array, rows: Array, out: Array) -> None:
    """Copy rows [T + k - 1, B] of `table` [R, W] to `out` [T, B, k, W], k neighbours each: a row comes from memory once, and
    from the cache k - 1 times."""
    for b in range(out.shape[1]):
        for t in range(out.shape[0]):
            for j in range(out.shape[2]):
                row = rows[t + j, b]
                for w in range(table.shape[1]):  # over words, as in `gather_pairs`
                    out[t, b, j, w] = table[row, w]


@compiled()
def tree_set(tree: Array, leaves: int, index: Array, value: Array) -> None:
    """Write leaves of a sum tree; parents are recomputed from their children, so errors never accumulate."""
    for b in range(index.shape[0]):
        tree[leaves + index[b]] = value[b]
    level = leaves >> 1
    shift = 1
    while level >= 1:
        for b in range(index.shape[0]):
            node = (leaves + index[b]) >> shift
            tree[node] = tree[2 * node] + tree[2 * node + 1]
        level >>= 1
        shift += 1


@compiled()
def min_tree_set(tree: Array, leaves: int, index: Array, value: Array) -> None:
    """The same for a tree of minima; a zero priority does not count."""
    for b in range(index.shape[0]):
        node = leaves + index[b]
        tree[node] = value[b] if value[b] > 0.0 else np.inf
        node >>= 1
        while node >= 1:
            tree[node] = min(tree[2 * node], tree[2 * node + 1])
            node >>= 1


@compiled()
def tree_find(tree: Array, leaves: int, target: Array, index: Array) -> None:
    """The leaf under each target in [0, root): left where target < left sum, never into a subtree that sums to zero.

    All targets go down one level at a time, so that their memory accesses overlap. `target` is used up.
    """
    index[:] = 1
    level = 1
    while level < leaves:
        for b in range(target.shape[0]):
            node = 2 * index[b]
            left = tree[node]
            if left == 0.0 or (target[b] >= left and tree[node + 1] > 0.0):
                target[b] -= left
                node += 1
            index[b] = node
        level *= 2
    index -= leaves
