"""The state of a calibration on disk, so that one which was killed goes on where it was.

A state file is an .npz of the observers' arrays and of the sample indices they have seen. It is written beside and
renamed into place, so that it is whole at any time. The folder's `calibration.json` says of which model and which data
it is: with any other it is refused, because its counts would be wrong without a sign of it.
"""

import hashlib
import json
import os
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sardonyx.errors import DataError, SaveError
from sardonyx.passes.quantization.calibration.bank import ObserverBank
from sardonyx.passes.quantization.calibration.coverage import Coverage

STATE_VERSION = 2
_MANIFEST = "calibration.json"
_DIFFERENT = {"version": "another release", "model": "another model", "data": "other data"}


@dataclass(frozen=True)
class Identity:
    """What a state belongs to.

    Attributes:
        model: Digest of the float model.
        data: Fingerprint of the samples.
        version: Version of the format.
    """

    model: str
    data: str
    version: int = STATE_VERSION


class StateFolder:
    """A folder of states of one model and one set of samples.

    Args:
        folder: Created where it does not exist.
        identity: What the states belong to.

    Raises:
        DataError: If the folder holds states of another model, of other data or of another release.
        SaveError: If it cannot be written.
    """

    def __init__(self, folder: Path, identity: Identity) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / _MANIFEST).exists():
                self._check(identity)
            else:
                _write(folder / _MANIFEST, json.dumps(asdict(identity)).encode())
        except OSError as error:
            raise _unwritable(folder, error) from error

    def load(self, new: ObserverBank) -> tuple[ObserverBank, Coverage]:
        """Returns the stored observers and the samples they have seen; the new ones where nothing is stored.

        Args:
            new: Observers of the same values, kinds and thinning that have seen nothing.

        Raises:
            DataError: If the stored state cannot be read.
        """
        path = self._path(new)
        if not path.exists():
            return new, Coverage()
        try:
            with np.load(path, allow_pickle=False) as arrays:
                state = {name: arrays[name] for name in arrays.files}
            done = Coverage.of(state.pop("done").tolist())
            return new.restore(state), done
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"The calibration state {path} cannot be read: {error}", remedy="Delete it.") from error

    def save(self, bank: ObserverBank, done: Coverage) -> None:
        """Writes the observers' state; an interruption leaves the old one.

        Raises:
            SaveError: If it cannot be written.
        """
        path = self._path(bank)
        beside = path.with_name(f"{path.name}.{os.getpid()}.new")
        try:
            with beside.open("wb") as file:
                arrays: dict[str, Any] = {**bank.state(), "done": np.array(done.ranges, np.int64).reshape(-1, 2)}
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise _unwritable(self.folder, error) from error

    def _path(self, bank: ObserverBank) -> Path:
        key = hashlib.sha256(json.dumps([bank.values, bank.kinds, bank.thinning]).encode()).hexdigest()
        return self.folder / f"{key[:16]}.npz"

    def _check(self, identity: Identity) -> None:
        path = self.folder / _MANIFEST
        try:
            stored = dict(json.loads(path.read_text()))
        except ValueError as error:
            raise DataError(f"{path} cannot be read: {error}", remedy="Delete the folder.") from error
        for key, wanted in asdict(identity).items():
            if stored.get(key) != wanted:
                raise DataError(
                    f"The calibration state in {self.folder} was made with {_DIFFERENT[key]}: "
                    f"{stored.get(key)} instead of {wanted}.",
                    remedy="Name another folder, or delete this one to start over.",
                )


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _unwritable(folder: Path, error: OSError) -> SaveError:
    return SaveError(
        f"The calibration state cannot be written to {folder}: {error}", remedy="Name a folder that can be written."
    )
