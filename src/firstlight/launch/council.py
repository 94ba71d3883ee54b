"""How several nodes start, end and start again together: what the node that leads makes of what all of them say.

Every node can lead; the lowest that lives does. It knows no more than the words of the others, each of which carries
the whole history of the run, so that another node can lead from the next word on.
"""

import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from firstlight.base.errors import EXIT_PREEMPTED, FirstlightError, InputError
from firstlight.base.heartbeat import Beat
from firstlight.config.training import ResilienceConfig
from firstlight.launch.cause import Cause
from firstlight.launch.ledger import Fault
from firstlight.launch.node import Node
from firstlight.launch.sizes import Sizes
from firstlight.launch.supervisor import Supervisor
from firstlight.launch.words import Order, Word
from firstlight.resilience.watchdog import Stuck, find_stuck

NODE_LOST = "node lost"
"""The kind of a failure; its rank is the first of the node's."""

_REPORT_SECONDS = 20.0
"""What nodes have to end their ranks and say why."""
_REDIAL_SECONDS = 0.5
"""What a node has to call again when its connection has ended; one that is killed does not."""
_LEAVE_SECONDS = 600.0
"""What the others have to save the last state."""


@dataclass(frozen=True, kw_only=True)
class _Heard:
    """The last word of a node."""

    word: Word
    at: float
    """On the monotonic clock of this machine."""
    has_hung_up: bool = False

    def beats(self) -> list[Beat]:
        """The signs of life of its ranks, on that clock."""
        moved = self.word.beats
        return [replace(beat, began=self.at - beat.began, beaten=self.at - beat.beaten) for beat in moved]


@dataclass(kw_only=True)
class Council:
    """Of `node`, as long as it leads. `open_store` opens a new place for the ranks of a round to meet in."""

    node: Node
    supervisor: Supervisor
    instance: str
    open_store: Callable[[], str]
    sizes: Sizes
    clock: Callable[[], float] = time.monotonic
    history: tuple[Fault, ...] = ()
    _heard: dict[int, _Heard] = field(default_factory=dict)
    _phase: str = "wait"
    _since: float = 0.0
    """When the phase began."""
    _job: str = ""
    _round: int = 0
    _judged: int = 0
    """The last round whose end is in the history."""
    _party: Mapping[int, str] = field(default_factory=dict)
    """The nodes of the round, and their instances then."""
    _expected: frozenset[int] = frozenset()
    """The nodes of the last round that any has told of: without all of them, the others wait a while."""
    _called_at: dict[int, float] = field(default_factory=dict)
    """When nodes that come before this one, and will lead when they can, were last heard of."""
    _grows: str = ""
    """Why the ranks pause: who has come."""
    _store: str = ""
    _found: Cause | None = None
    """What ended the round, where no rank can tell."""
    _left: Cause | None = None
    """The loss of the node that led the round, where nobody has judged its end."""
    _stuck: Stuck | None = None
    _traces: str = ""
    """Where nodes keep what their ranks were at when one was stuck."""
    _message: str = ""
    _exit_code: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def _config(self) -> ResilienceConfig:
        return self.supervisor.config

    def answer(self, word: Word) -> Order:
        """What the node of this word is to do."""
        with self._lock:
            now = self.clock()
            fault = self._fault_of(word, now)
            if fault is not None:
                if self._round or self._phase == "stop":
                    return self._order("stop", message=f"error: {fault}", exit_code=InputError.exit_code)
                self._stop(now, f"error: {fault}", InputError.exit_code)
            else:
                self._hear(word, now)
            self._advance(now)
            return self._answer(word)

    def gone(self, word: Word) -> None:
        """The connection over which this came has ended; the node may have said more over another one since."""
        with self._lock:
            heard = self._heard.get(word.node)
            if heard is not None and heard.word == word:
                limit = self.clock() - self._config.node_lost_after_seconds + _REDIAL_SECONDS
                self._heard[word.node] = replace(heard, at=min(heard.at, limit), has_hung_up=True)

    def calls(self, rank: int) -> None:
        """A node that comes before this one is there, and waits."""
        with self._lock:
            self._called_at[rank] = self.clock()

    def is_over(self) -> bool:
        """Whether all others have heard that it is over, or have had the time to."""
        with self._lock:
            now = self.clock()
            others = [one.word.state for rank, one in self._living(now).items() if rank != self.node.rank]
            return all(state == "leaves" for state in others) or now - self._since > _LEAVE_SECONDS

    def _fault_of(self, word: Word, now: float) -> str | None:
        if word.count != self.node.count:
            return f"the nodes do not agree on how many they are: {self.node.count} and {word.count}"
        known = self._living(now).get(word.node)
        if known is not None and known.word.instance != word.instance:
            return f"two nodes have NODE_RANK = {word.node}; give each its own, from 0 to {self.node.count - 1}"
        return None

    def _hear(self, word: Word, now: float) -> None:
        if not self._living(now) and self._phase != "stop":  # nobody was led until now
            self._enter("wait", now)
        self._heard[word.node] = _Heard(word=word, at=now)
        self._job = self._job or word.job
        if word.round >= self._round and word.party:
            self._expected = frozenset(word.party)
        self._round = max(self._round, word.round)
        if len(word.history) > len(self.history):
            self.history = word.history
            self._judged = judged(word.history)
            self.supervisor.adopt(word.history)

    def _advance(self, now: float) -> None:
        """From phase to phase, as far as what was heard goes."""
        before = ""
        while before != self._phase:
            before = self._phase
            if before == "wait":
                self._wait(now)
            elif before == "run":
                self._run(now)
            elif before == "end":
                self._end(now)

    def _wait(self, now: float) -> None:
        """Until all are there; a round that another node led may have ended without a verdict."""
        living = self._living(now)
        words = [one.word for one in living.values()]
        unjudged = next((word for word in words if word.state == "ended" and word.round > self._judged), None)
        if unjudged is not None:
            self._party = {word.node: word.instance for word in words if word.round == self._round}
            self._found = self._stuck = None
            self._left = self._gone_leader(unjudged.leader)
            self._enter("end", now)
            return
        if self._callers(now) or any(word.state == "runs" for word in words):
            self._since = now  # of a run that goes on elsewhere
            return
        size = self.sizes.best(len(living))
        is_complete = living.keys() >= (self._expected or frozenset(range(self.node.count)))
        limit = self._config.node_return_seconds if self._round else self.node.join_seconds
        is_late = now - self._since > limit
        if size is not None and (is_complete or (is_late and self._round)):
            self._begin(now, sorted(living)[:size])
        elif is_late:
            self._stop(now, self._missing(living, limit), FirstlightError.exit_code)

    def _begin(self, now: float, party: Sequence[int]) -> None:
        self._job = self._job or uuid.uuid4().hex
        self._round += 1
        self._party = {rank: self._heard[rank].word.instance for rank in party}
        self._expected, self._grows = frozenset(party), ""
        self._store = self.open_store()
        self._found = self._left = self._stuck = None
        self._enter("run", now)

    def _run(self, now: float) -> None:
        words = self._party_words(now)
        beats = self._note()
        if self._finds_lost(words, now) or any(self._has(word, "ended") for word in words.values()):
            self._enter("end", now)
        elif all(self._has(word, "done") for word in words.values()):
            self._done(now, words)
        else:
            self._grows = self._grows or self._newcomers(now, beats)
            self._stuck = find_stuck(beats, now, self._config)
            if self._stuck is not None:
                self._found = _told(self._stuck)
                self._traces = self.supervisor.place_of_traces(self._stuck.kind)
                self._enter("end", now)

    def _done(self, now: float, words: Mapping[int, Word]) -> None:
        """The run has come to its end, or was asked to, or has made room for a node that came."""
        codes = {word.exit_code for word in words.values()}
        if self._grows and codes == {EXIT_PREEMPTED} and not any(word.is_asked for word in words.values()):
            self._enter("wait", now)
        else:
            self._stop(now, "", max(codes))

    def _newcomers(self, now: float, beats: Sequence[Beat]) -> str:
        """The nodes for which the ranks are to pause, in words; nothing where they make no larger layout, or before all
        ranks have done a step and can be asked to."""
        come = sorted({*self._living(now), *self._callers(now)} - self._party.keys())
        all_there = len(beats) == len(self._party) * self.node.num_ranks
        have_stepped = all_there and all(beat.step > beat.first_step for beat in beats)
        if not come or not have_stepped or (self.sizes.best(len(self._party) + len(come)) or 0) <= len(self._party):
            return ""
        nodes = ", ".join(named(rank, self._addresses().get(rank)) for rank in come)
        return f"{nodes} has come; the ranks save after this step and start again with it"

    def _callers(self, now: float) -> list[int]:
        limit = self._config.node_lost_after_seconds
        return [rank for rank, at in self._called_at.items() if now - at <= limit]

    def _end(self, now: float) -> None:
        """Until all that live have said why their ranks have ended."""
        words = self._party_words(now)
        if any(word.state == "runs" for word in words.values()) and now - self._since < _REPORT_SECONDS:
            return
        self._finds_lost(words, now)  # what its loss has ended elsewhere may have been heard first
        self._note()
        ended = [word for word in words.values() if self._has(word, "ended")]
        cause = self._first_cause([word.cause for word in ended if word.cause is not None])
        self._judge(now, cause, traces=next((word.traces for word in ended if word.traces), ""))
        if any(word.is_asked for word in ended):
            self._stop(now, self._message, self._exit_code or FirstlightError.exit_code)

    def _finds_lost(self, words: Mapping[int, Word], now: float) -> bool:
        """Whether a node of the round is gone, which is then why it ends."""
        lost = next((rank for rank in self._party if rank not in words), None)
        if lost is not None and self._found is None:
            self._found = self._lost(lost, now)
        return lost is not None

    def _has(self, word: Word, state: str) -> bool:
        """Whether this is how the node's ranks of this round are; it may not have begun it."""
        return word.round == self._round and word.state == state

    def _first_cause(self, reported: list[Cause]) -> Cause:
        """A lost node before all that follows from it; of a stuck rank what its own node says, which has its stack."""
        if self._stuck is not None:
            of_it = [cause for cause in reported if (cause.kind, cause.rank) == (self._stuck.kind, self._stuck.rank)]
            return max([_told(self._stuck), *of_it], key=lambda cause: len(cause.message))
        own = [cause for cause in reported if not cause.is_consequence]
        causes = [*filter(None, [self._found]), *own, *filter(None, [self._left]), *reported]
        return next(iter(causes), Cause(message="error: the ranks have ended", exit_code=FirstlightError.exit_code))

    def _judge(self, now: float, cause: Cause, *, traces: str) -> None:
        self.supervisor.round = self._round - 1
        verdict = self.supervisor.judge(cause, self._since, traces=traces)
        self.history = (*self.history, verdict.fault)
        self._judged = self._round
        if verdict.starts_again:
            self._message = verdict.message
            self._enter("wait", now)
        else:
            self._stop(now, verdict.message, verdict.exit_code)

    def _stop(self, now: float, message: str, exit_code: int) -> None:
        self._message, self._exit_code = message, exit_code
        self._enter("stop", now)

    def _enter(self, phase: str, now: float) -> None:
        self._phase, self._since = phase, now

    def _living(self, now: float) -> dict[int, _Heard]:
        limit = self._config.node_lost_after_seconds
        return {rank: one for rank, one in self._heard.items() if now - one.at <= limit}

    def _party_words(self, now: float) -> dict[int, Word]:
        """Of the round's nodes that live: one that was started again is not the node that it was."""
        words = {rank: one.word for rank, one in self._living(now).items()}
        return {rank: word for rank, word in words.items() if self._party.get(rank) == word.instance}

    def _note(self) -> list[Beat]:
        """How far the ranks of this round are."""
        of_round = [one for rank, one in self._heard.items() if rank in self._party and one.word.round == self._round]
        beats = [beat for one in of_round for beat in one.beats()]
        self.supervisor.note(beats)
        return beats

    def _lost(self, rank: int, now: float) -> Cause:
        heard = self._heard[rank]
        is_back = heard.word.instance != self._party[rank]
        how = f"no sign of life for {now - heard.at:.1f} s"
        if is_back or heard.has_hung_up:
            how = "its supervisor was started again" if is_back else "its supervisor has ended"
        return Cause(
            message=f"error: {named(rank, heard.word.address)} is lost: {how}",
            exit_code=FirstlightError.exit_code,
            kind=NODE_LOST,
            rank=list(self._party).index(rank) * self.node.num_ranks,
        )

    def _gone_leader(self, rank: int) -> Cause:
        known = {0: f"{self.node.address}:{self.node.port}"} | self._addresses()
        before = [node for node in self._expected or range(self.node.count) if node < rank]
        return Cause(
            message=f"error: {named(rank, known.get(rank))} is lost: its supervisor has ended",
            exit_code=FirstlightError.exit_code,
            kind=NODE_LOST,
            rank=len(before) * self.node.num_ranks,
        )

    def _missing(self, living: Mapping[int, _Heard], limit: float) -> str:
        missing = [rank for rank in range(self.node.count) if rank not in living]
        known = {0: f"{self.node.address}:{self.node.port}"} | self._addresses()
        shown = ", ".join(named(rank, known.get(rank)) for rank in missing[:8]) + (" ..." if len(missing) > 8 else "")
        what = "come back" if self._round else "come"
        hint = " (resilience.node_return_seconds)" if self._round else ""
        why_not = self.sizes.why_not(len(living)) if self._round else ""
        counted = f"{len(missing)} of {self.node.count} nodes did not {what} within {limit:g} s{hint}"
        return f"error: {counted}: {shown}{why_not}"

    def _addresses(self) -> dict[int, str]:
        return {rank: one.word.address for rank, one in self._heard.items()}

    def _answer(self, word: Word) -> Order:
        if self._phase == "stop":
            return self._order("stop", exit_code=self._exit_code)
        if self._phase == "run" and self._party.get(word.node) == word.instance:
            return self._order("pause", message=self._grows) if self._grows else self._order("run")
        if word.state == "runs":
            return self._order("end")
        return self._order("wait")

    def _order(self, kind: str, *, message: str | None = None, exit_code: int = 0) -> Order:
        return Order.model_validate(
            {
                "kind": kind,
                "leader": self.instance,
                "job": self._job,
                "round": self._round,
                "addresses": self._addresses(),
                "party": tuple(self._party),
                "store": self._store,
                "stuck": self._stuck,
                "traces": "" if self._stuck is None else self._traces,
                "at_once": self._found is not None,
                "message": self._message if message is None else message,
                "exit_code": exit_code,
                "history": self.history,
            }
        )


def judged(history: Sequence[Fault]) -> int:
    """The last round whose end is in the history; 0 for none."""
    return history[-1].round + 1 if history else 0


def named(rank: int, address: str | None) -> str:
    """A node, for the user."""
    return f"node {rank}" + (f" ({address})" if address else "")


def _told(stuck: Stuck) -> Cause:
    return Cause(message=f"error: {stuck.what}", exit_code=FirstlightError.exit_code, kind=stuck.kind, rank=stuck.rank)
