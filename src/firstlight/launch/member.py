"""This node among the others: finds the one that leads, tells it how this node is, and keeps what it is told to do."""

import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from firstlight.base.errors import EXIT_PREEMPTED, FirstlightError
from firstlight.base.heartbeat import Beat
from firstlight.base.log import get_logger
from firstlight.launch.agent import Elsewhere, Pause, Reason
from firstlight.launch.cause import Cause
from firstlight.launch.channel import Line, Listener, NoAnswer, call
from firstlight.launch.council import NODE_LOST, Council, named
from firstlight.launch.node import Node, host_and_port, listening_at, local_address, open_store
from firstlight.launch.sizes import Sizes
from firstlight.launch.supervisor import Supervisor
from firstlight.launch.words import Order, Word

_BEAT_SECONDS = 0.25
_CALL_SECONDS = 1.0
"""To reach a node that does not lead: so long the others wait for this one's word."""
_LOOK_SECONDS = 1.0
"""Between attempts to reach nodes that come before the one that leads."""
_PATIENCE_SECONDS = 30.0
_GO_ON = ("run", "pause")
"""Orders under which ranks run."""


@dataclass(kw_only=True)
class Report:
    """How the ranks of this node have ended."""

    exit_code: int
    cause: Cause | None
    is_asked: bool = False
    traces: str = ""
    """Where in the run's folder what they were at is kept."""


@dataclass(kw_only=True)
class _Told:
    """What this node and the one that leads know of each other; guarded by a lock."""

    word: Word
    order: Order | None = None
    beats: Sequence[Beat] = ()
    """On this machine's monotonic clock."""
    answered_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, kw_only=True)
class Group:
    """What the nodes of a run have in common: a secret, and with how many of them it goes on."""

    token: bytes
    sizes: Sizes


class Member:
    """This node for the length of a `with` block. Raises InputError when it cannot listen where it must."""

    def __init__(self, node: Node, supervisor: Supervisor, group: Group) -> None:
        self._node, self._supervisor, self._token = node, supervisor, group.token
        self._host = node.address if node.rank == 0 else local_address(node)
        self._listening = listening_at(node, self._host)
        instance = uuid.uuid4().hex
        address = host_and_port(self._listening)
        self._stores: list[Any] = []
        self._council = Council(
            node=node, supervisor=supervisor, instance=instance, open_store=self._open_store, sizes=group.sizes
        )
        self._told = _Told(word=Word(node=node.rank, count=node.count, instance=instance, address=address))
        self._addresses = {0: f"{node.address}:{node.port}"}
        self._leader = node.rank
        self._lines: dict[int, Line] = {}
        self._refused: set[int] = set()
        self._looked_at = -_LOOK_SECONDS
        self._lock = threading.Condition()
        self._is_closed = False

    def __enter__(self) -> "Member":
        self._listener = Listener(self._listening, self._token, self._hear, self._gone)
        self._beating = threading.Thread(target=self._beat, name="member", daemon=True)
        self._beating.start()
        if self._node.rank > 0:
            threading.Thread(target=self._look_for_first, name="first", daemon=True).start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._is_closed = True
        self._beating.join(_PATIENCE_SECONDS)
        self._listener.close()
        for line in self._lines.values():
            line.close()

    @property
    def leads(self) -> bool:
        """Whether this node does."""
        return self._leader == self._node.rank

    def next_order(self) -> Order:
        """To run the ranks of a round, or to stop; waits for it."""
        with self._lock:
            while True:
                order = self._told.order
                if order is not None and order.kind == "stop":
                    return order
                if order is not None and order.kind == "run" and self._told.word.state == "runs":
                    return order
                self._lock.wait(_PATIENCE_SECONDS)

    def watch(self, beats: Sequence[Beat]) -> Reason | None:
        """Pass the signs of life of this node's ranks on, and say whether they are to end."""
        with self._lock:
            self._told.beats = tuple(beats)
            order = self._told.order
        if order is None or order.kind == "run":
            return None
        if order.kind == "pause":
            return Pause()
        return order.stuck or Elsewhere(at_once=order.at_once)

    @property
    def place_of_traces(self) -> str:
        """Where in the run's folder what the ranks were at is to be kept; nothing where nobody wants it."""
        with self._lock:
            return "" if self._told.order is None else self._told.order.traces

    def report(self, report: Report) -> None:
        """Say how the ranks have ended; why this node has ended them itself comes first."""
        with self._lock:
            is_ended = self._told.order is not None and self._told.order.kind == "end"
            cause = self._told.word.cause or report.cause
            has_come_to_its_end = report.exit_code in (0, EXIT_PREEMPTED) and cause is None and not is_ended
            if cause is None and not has_come_to_its_end:
                what = f"error: the ranks of node {self._node.rank} have ended with exit code {report.exit_code}"
                cause = Cause(message=what, exit_code=report.exit_code, kind="error", is_consequence=is_ended)
            self._tell(
                state="done" if has_come_to_its_end else "ended",
                cause=None if has_come_to_its_end else cause,
                exit_code=report.exit_code,
                is_asked=report.is_asked,
                traces=report.traces,
            )

    def leave(self) -> None:
        """Say that this node stops; the one that leads waits until all do."""
        with self._lock:
            self._tell(state="leaves")
            self._lock.wait(_PATIENCE_SECONDS if self._leader != self._node.rank else _BEAT_SECONDS)
        while self._leader == self._node.rank and not self._council.is_over():
            time.sleep(_BEAT_SECONDS)

    def _tell(self, **facts: object) -> None:
        self._told.word = self._told.word.model_copy(update=facts)

    def _beat(self) -> None:
        while not self._is_closed:
            word = self._word()
            order = self._order_for(word)
            with self._lock:
                if order is not None:
                    self._take(order)
                if word.state == "leaves" and order is not None:
                    self._lock.notify_all()
            time.sleep(_BEAT_SECONDS)

    def _word(self) -> Word:
        with self._lock:
            now = time.monotonic()
            beats = tuple(replace(beat, began=now - beat.began, beaten=now - beat.beaten) for beat in self._told.beats)
            return self._told.word.model_copy(update={"beats": beats})

    def _take(self, order: Order) -> None:
        """What it says is so from now on."""
        before, word = self._told.order, self._told.word
        self._told.answered_at = time.monotonic()
        self._addresses |= {rank: place for rank, place in order.addresses.items() if rank != self._node.rank}
        if len(order.history) > len(word.history) and order.kind != "stop" and order.message:
            get_logger().warning(order.message)
        if order.kind == "pause" and before is not None and before.kind != "pause":
            get_logger().info(order.message)
        history = max(word.history, order.history, key=len)
        self._tell(history=history, job=order.job)
        if word.state == "runs":
            if before is not None and before.kind in _GO_ON and before.leader != order.leader:
                order = self._end(f"{named(self._leader, self._addresses.get(self._leader))} was started again")
            elif before is not None and before.kind not in _GO_ON:
                return  # the ranks are being ended: no order changes that
        elif order.kind == "run" and order.round > word.round:
            facts = {"cause": None, "exit_code": 0, "is_asked": False, "traces": "", "party": order.party}
            self._tell(state="runs", round=order.round, leader=self._leader, **facts)
            self._told.beats = ()
        self._told.order = order
        self._lock.notify_all()

    def _order_for(self, word: Word) -> Order | None:
        """Of the node that leads; None where it does not answer and may still."""
        now = time.monotonic()
        if word.state != "runs" and now - self._looked_at > _LOOK_SECONDS:
            self._looked_at = now
            for rank in range(self._leader):
                if rank in self._addresses:
                    with suppress(NoAnswer, ConnectionRefusedError):
                        order = self._ask(rank, word)
                        self._leader = rank
                        return order
        try:
            return self._ask(self._leader, word)
        except NoAnswer:
            seconds = time.monotonic() - self._told.answered_at
            if seconds > self._supervisor.config.node_lost_after_seconds:
                self._lose_leader(f"no sign of life for {seconds:.1f} s")
        except ConnectionRefusedError:
            self._lose_leader("its supervisor has ended")
        return None

    def _look_for_first(self) -> None:
        """A run that another node leads takes node 0 in again when it is back; others find their way by themselves. In
        a thread of its own: this node's words must not wait for a machine that is not there."""
        line: Line | None = None
        while not self._is_closed:
            word = self._word()
            if self.leads and word.state == "runs":
                try:
                    line = line or call(self._addresses[0], self._token, _CALL_SECONDS)
                    line.send(word.as_json())
                    if Order.model_validate(line.receive(_CALL_SECONDS)).kind != "stop":
                        self._council.calls(
                            0
                        )  # it knows nothing of the ranks that run, and what it orders is no matter
                except (NoAnswer, ConnectionRefusedError):
                    if line is not None:
                        line.close()
                    line = None
            time.sleep(_LOOK_SECONDS)

    def _lose_leader(self, how: str) -> None:
        """Without a leader this node ends its ranks itself, and looks for another one when they have ended."""
        what = f"{named(self._leader, self._addresses.get(self._leader))} is lost: {how}"
        with self._lock:
            word, order = self._told.word, self._told.order
            if word.state == "runs" and order is not None and order.kind in _GO_ON:
                self._told.order = self._end(what)
            if self._told.word.state != "runs":
                self._leader, self._looked_at = self._node.rank, -_LOOK_SECONDS

    def _end(self, what: str) -> Order:
        """Remember why the ranks end, for the next leader; the order that has them end."""
        assert self._told.order is not None, "there was a leader, and it said run"
        order, code = self._told.order, FirstlightError.exit_code
        first_rank = order.party.index(self._leader) * self._node.num_ranks if self._leader in order.party else 0
        cause = Cause(message=f"error: {what}", exit_code=code, kind=NODE_LOST, rank=first_rank)
        self._tell(cause=cause)
        return order.model_copy(update={"kind": "end", "at_once": True, "stuck": None, "traces": ""})

    def _ask(self, rank: int, word: Word) -> Order:
        if rank == self._node.rank:
            return self._council.answer(word)
        try:
            if rank not in self._lines:
                self._lines[rank] = call(self._addresses[rank], self._token, _CALL_SECONDS)
            self._lines[rank].send(word.as_json())
            limit = self._supervisor.config.node_lost_after_seconds
            return Order.model_validate(self._lines[rank].receive(limit))
        except (NoAnswer, ConnectionRefusedError) as error:
            line = self._lines.pop(rank, None)
            if line is not None:
                line.close()
            if "token" in str(error) and rank not in self._refused:
                self._refused.add(rank)
                get_logger().warning(f"{named(rank, self._addresses[rank])}: {error}")
            raise

    def _hear(self, message: dict[str, Any]) -> dict[str, Any]:
        return self._council.answer(Word.model_validate(message)).as_json()

    def _gone(self, message: dict[str, Any]) -> None:
        self._council.gone(Word.model_validate(message))

    def _open_store(self) -> str:
        """The one of the last round stays until now: ranks that end may still ask it."""
        store, place = open_store(self._host)
        self._stores = [*self._stores[-1:], store]
        return place
