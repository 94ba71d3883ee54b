"""Numbers that grow without end, and a file with those of them that a journal counts on."""

import os
from array import array
from pathlib import Path

from firstlight.data.partial_file import SUFFIX


class SavedArray:
    """`values` is an `array` of type `code`; `save` puts what is new on disk in `<path>.partial`.

    Numbers that were saved must stay; later ones may be taken back. With `count`, begins with so many saved ones.
    """

    def __init__(self, path: Path, code: str, count: int | None = None) -> None:
        self._path = Path(f"{path}{SUFFIX}")
        self._num_saved = 0
        self.values = array(code)
        if count is not None:
            with self._path.open("r+b") as file:
                self.values.fromfile(file, count)
                file.truncate(count * self.values.itemsize)
            self._num_saved = count

    def save(self) -> None:
        """Append what was not saved yet, to the disk."""
        with self._path.open("ab" if self._num_saved else "wb") as file:
            self.values[self._num_saved :].tofile(file)
            file.flush()
            os.fsync(file.fileno())
        self._num_saved = len(self.values)

    def discard(self) -> None:
        """Remove the file; the values stay."""
        self._path.unlink(missing_ok=True)
