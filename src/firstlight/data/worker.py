"""A process that reads samples for a training process: requests on standard input, replies on standard output.

A message is a JSON object, its length before it, and after it the arrays that it announces, raw. Nothing is pickled.
The worker ends when its standard input does: it does not outlive the process that started it.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from firstlight.base.errors import FirstlightError
from firstlight.config.data import DataConfig
from firstlight.data.cut import PhaseNeeds
from firstlight.data.open import TrainingNeeds, open_training_data
from firstlight.data.reader import Reply, Request, answer
from firstlight.data.samples import Samples, send_to

_LENGTH_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The data set that a worker reads."""

    config: DataConfig
    needs: TrainingNeeds

    def message(self) -> dict[str, Any]:
        """As plain values."""
        return {"config": self.config.model_dump(mode="json"), "needs": asdict(self.needs)}

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> "Assignment":
        """What `message` gave."""
        return cls(config=DataConfig.model_validate(message["config"]), needs=_needs(message["needs"]))


def _needs(message: Mapping[str, Any]) -> TrainingNeeds:
    later = [PhaseNeeds(**{**one, "weights": one["weights"] and tuple(one["weights"])}) for one in message["later"]]
    return TrainingNeeds(**{**message, "later": tuple(later)})


def send(file: IO[bytes], message: Mapping[str, Any], *arrays: NDArray[Any]) -> None:
    """Write a message and its arrays."""
    content = json.dumps(message).encode()
    file.write(len(content).to_bytes(_LENGTH_BYTES, "little") + content)
    for array in arrays:
        file.write(np.ascontiguousarray(array).view(np.uint8).data)
    file.flush()


def receive(file: IO[bytes]) -> dict[str, Any]:
    """The next message. Raises EOFError when the other side has ended."""
    size = int.from_bytes(_exactly(file, _LENGTH_BYTES), "little")
    message: dict[str, Any] = json.loads(_exactly(file, size))
    return message


def receive_array(file: IO[bytes], shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array that a message announced. Raises EOFError when the other side has ended."""
    array = np.empty(shape, dtype)
    content = array.reshape(-1).view(np.uint8)
    filled = 0
    while filled < len(content):
        count = file.readinto(content[filled:].data)  # type: ignore[attr-defined]  # a buffered file has it
        if not count:
            raise EOFError
        filled += count
    return array


def send_request(file: IO[bytes], request: Request) -> None:
    """Ask a worker for samples."""
    send(file, {"read": len(request.numbers), "next": request.next_number}, request.numbers)


def receive_reply(file: IO[bytes]) -> Reply:
    """A worker's answer. Raises EOFError when it has ended, FirstlightError when it could not read."""
    message = receive(file)
    if "error" in message:
        raise FirstlightError(message["error"])
    rows, width = message["rows"], message["width"]
    samples = Samples(
        tokens=receive_array(file, (rows, width), np.int32),
        num_real=receive_array(file, (rows,), np.int32),
        begins=receive_array(file, (rows, width), np.bool_),
    )
    return Reply(samples=samples, position=message["position"])


def _exactly(file: IO[bytes], size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise EOFError
    return content


def serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Answer until the requests end."""
    assignment = Assignment.of(receive(requests))
    dataset = open_training_data(assignment.config, assignment.needs).dataset
    while True:
        message = receive(requests)
        if "go_to" in message:
            send_to(dataset, message["go_to"], message["position"])
            continue
        numbers = receive_array(requests, (message["read"],), np.int64)
        try:
            reply = answer(dataset, Request(numbers=numbers, next_number=message["next"]))
        except (FirstlightError, IndexError) as error:
            send(replies, {"error": str(error)})
            continue
        samples = reply.samples
        rows, width = samples.tokens.shape
        announced = {"rows": rows, "width": width, "position": reply.position}
        send(replies, announced, samples.tokens, samples.num_real, samples.begins)


def main() -> int:
    """Run as `python -m firstlight.data.worker`."""
    replies = sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever prints must not print into a reply
    try:
        serve(sys.stdin.buffer, replies)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return 0
    except FirstlightError as error:
        sys.stderr.write(f"firstlight data worker: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
