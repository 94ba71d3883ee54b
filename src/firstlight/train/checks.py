"""Looks now and then whether ranks still compute, and hold, the right numbers."""

from collections.abc import Callable

from firstlight.base.log import get_logger
from firstlight.base.report import Corruption
from firstlight.config.training import ResilienceConfig
from firstlight.data.stream import Batch
from firstlight.train.place import Place
from firstlight.train.replay import Replay
from firstlight.train.replicas import ReplicaCheck
from firstlight.train.state import TrainState


class Checks:
    """Of one rank; what is due is done by all ranks together."""

    def __init__(
        self,
        config: ResilienceConfig,
        place: Place,
        *,
        replicas: ReplicaCheck | None,
        replay: Replay | None,
        trust: Callable[[int], None],
    ) -> None:
        """`trust` is told of each step up to which the replicas are known to be alike."""
        self._trust = trust
        self._config = config
        self._place = place
        self._replicas = replicas
        self._replay = replay
        self._good_step = 0
        self._found: Corruption | None = None

    def began(self, state: TrainState) -> None:
        """The run goes on from here: what was loaded, or made from the seed, is the same everywhere."""
        self._good_step = state.step
        if self._replicas is not None:
            self._trust(state.step)
            self._replicas.say_coverage(state.tensors())

    def due_before(self, step: int) -> bool:
        """Whether something is to be done with the rows of step `step` before they are trained on."""
        return self._replay is not None and step % self._config.replay_every_steps == 0

    def before_step(self, step: int, batch: Batch) -> None:
        """Compute some rows of a step that is due again and again. A passing fault is told; a lasting one is found
        after the update."""
        assert self._replay is not None, "it is due"
        found = self._replay.find(batch)
        if found is None:
            return
        if found.is_lasting:
            self._found = Corruption(what=found.what, good_step=self._good_step, is_lasting=True)
            self._note(step, found.what, action="stop")
            return
        self._note(step, found.what, action="go on")
        if self._place.world.rank == 0:
            get_logger().warning(f"step {step}: {found.what}; the step itself begins anew")

    def due_after(self, step: int) -> bool:
        """Whether something is to be looked at, or told, after the update of step `step`."""
        every = self._config.check_replicas_every_steps
        return self._found is not None or (self._replicas is not None and step % every == 0)

    def after_update(self, step: int, state: TrainState) -> Corruption | None:
        """What is wrong after the update of step `step`, which is due."""
        if self._found is not None:
            return self._found
        assert self._replicas is not None, "it is due"
        what = self._replicas.find(state.tensors())
        if what is not None:
            self._note(step, what, action=self._config.on_corruption)
            return Corruption(what=what, good_step=self._good_step)
        self._good_step = step
        self._trust(step)
        return None

    def _note(self, step: int, what: str, *, action: str) -> None:
        self._place.events.add("fault", step, what, {"action": action})
        self._place.note_fault({"event": "corruption", "step": step, "cause": what, "action": action})
