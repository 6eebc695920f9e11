"""The mismatch of each token of each training sample, kept from epoch to epoch (noise-aware masking)."""

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from misc.process.durable import leftovers, replacing
from options import UserError

HEADER = 512  # bytes: a JSON object, then spaces
CHECKSUM = 4  # bytes, after the values of a sample
PATTERN = "token_mismatch_*.bin"


class Mismatches:
    """Files in the output folder of a run, one for each epoch: of each sample half-precision numbers, one for
    each token, and their CRC-32. A sample that an epoch did not have is zeros, as all are before the first.

    One process writes the file of an epoch; all others, and their workers, read that of the epoch before.

    Args:
        samples: what tells whether the samples are the same, and have the same tokens.
        length: the most tokens of a caption.

    Attributes:
        run: whose files these are, as their headers say; "": not known yet.
    """

    def __init__(self, folder: Path, num_samples: int, samples: str, length: int) -> None:
        self.folder, self.num_samples, self.length = folder, num_samples, length
        self.samples = hashlib.sha256(samples.encode()).hexdigest()
        self.run = ""
        self._row = 2 * length + CHECKSUM
        self._open: dict[int, int] = {}  # descriptors by epoch

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": {}}  # a worker opens its own

    def path(self, epoch: int) -> Path:
        """The file of an epoch, from 0; its name counts from 1."""
        return self.folder / PATTERN.replace("*", f"{epoch + 1:04d}")

    def row(self, epoch: int, index: int) -> list[float] | None:
        """(length,) of a sample in an epoch; None: all alike, as before the first.

        Raises:
            UserError: the file is missing, damaged, or of another run.
        """
        if epoch < 0:
            return None
        row = os.pread(self._file(epoch), self._row, HEADER + index * self._row)
        if not any(row):
            return None
        values, checksum = row[:-CHECKSUM], row[-CHECKSUM:]
        if len(row) != self._row or self._checksum(index, values) != checksum:
            raise self._bad(epoch, f"is damaged at sample {index}")
        return np.frombuffer(values, "<f2").tolist()

    def start(self, epoch: int) -> None:
        """Make the file of an epoch, and remove those that no checkpoint needs: of the three last epochs each
        is kept, since the newest checkpoint may not be written yet.
        """
        kept = {self.path(number) for number in range(epoch - 2, epoch)}
        for path in {*self.folder.glob(PATTERN), *leftovers(self.path(epoch))} - kept:
            path.unlink()
        self._close(epoch)
        with replacing(self.path(epoch)) as file:
            file.write(self._header(epoch))
            file.truncate(HEADER + self.num_samples * self._row)

    def check(self, epoch: int) -> None:
        """Raise UserError unless the file of an epoch is there, whole, and of this run."""
        self._close(epoch)
        self._file(epoch)

    def write(self, epoch: int, indices: Sequence[int], values: npt.NDArray[np.float32]) -> None:
        """Write the samples of a step, (B, length): of two of one sample, the last one stays."""
        file = self._file(epoch)
        for index, row in zip(indices, np.nan_to_num(values).astype("<f2"), strict=True):
            content = row.tobytes()
            os.pwrite(file, content + self._checksum(index, content), HEADER + index * self._row)

    def flush(self, epoch: int) -> None:
        """Wait until what was written is on the disk."""
        os.fsync(self._file(epoch))

    @staticmethod
    def _checksum(index: int, values: bytes) -> bytes:
        return zlib.crc32(values, index & 0xFFFFFFFF).to_bytes(CHECKSUM, "little")

    def _header(self, epoch: int) -> bytes:
        facts = {"run": self.run, "epoch": epoch, "samples": self.samples, "length": self.length}
        return json.dumps(facts).encode().ljust(HEADER)

    def _close(self, epoch: int) -> None:
        if epoch in self._open:
            os.close(self._open.pop(epoch))

    def _file(self, epoch: int) -> int:
        if epoch not in self._open:
            for other in [number for number in self._open if number < epoch - 1]:
                self._close(other)
            self._open[epoch] = self._opened(epoch)
        return self._open[epoch]

    def _opened(self, epoch: int) -> int:
        try:
            file = os.open(self.path(epoch), os.O_RDWR)
        except FileNotFoundError as error:
            raise self._bad(epoch, "is missing") from error
        except OSError as error:
            raise self._bad(epoch, f"cannot be opened ({error.strerror})") from error
        if os.fstat(file).st_size != HEADER + self.num_samples * self._row:
            raise self._bad(epoch, "is damaged, or of other training samples: it has another size")
        if os.pread(file, HEADER, 0) != self._header(epoch):
            raise self._bad(epoch, "is of another run, or of other training samples")
        return file

    def _bad(self, epoch: int, problem: str) -> UserError:
        return UserError(
            f"experiment.mask_captions=noise-aware: '{self.path(epoch)}', with the mismatch of the tokens in "
            f"epoch {epoch + 1}, {problem}. Copy it from the run of the checkpoint, resume from a checkpoint "
            "whose files are there, or start again; all machines need the same output.dir"
        )
