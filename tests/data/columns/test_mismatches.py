"""The mismatch of tokens in files: what is written is read, and nothing else."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from data.columns.mismatches import Mismatches
from options import UserError


def made(folder: Path, samples: str = "these") -> Mismatches:
    files = Mismatches(folder, 5, samples, 3)
    files.run = "one"
    return files


def test_rows_are_read_in_half_precision_by_another_process_too_and_others_are_none(tmp_path: Path) -> None:
    files = made(tmp_path)
    files.start(0)
    files.write(0, [4, 0, 4], np.array([[0.1, 0.2, 0.3], [0, 0, 0], [2.0, np.nan, 1 / 3]], np.float32))
    for reader in (files, pickle.loads(pickle.dumps(files)), made(tmp_path)):
        assert reader.row(0, 4) == [2.0, 0.0, float(np.float16(1 / 3))], "the last of two"
        assert reader.row(0, 0) == [0.0, 0.0, 0.0]
        assert [reader.row(0, index) for index in (1, 2, 3)] == [None] * 3
        assert reader.row(-1, 4) is None, "before the first epoch"


def test_the_last_three_epochs_are_kept(tmp_path: Path) -> None:
    files = made(tmp_path)
    for epoch in range(5):
        files.start(epoch)
    assert sorted(tmp_path.iterdir()) == [files.path(epoch) for epoch in (2, 3, 4)]
    files.start(0)
    assert sorted(tmp_path.iterdir()) == [files.path(0)], "a run that begins again"


def test_a_file_of_other_samples_is_refused(tmp_path: Path) -> None:
    made(tmp_path).start(0)
    made(tmp_path).check(0)
    with pytest.raises(UserError, match=r"_0001\.bin.* is of another run, or of other training samples"):
        made(tmp_path, "others").check(0)
    with pytest.raises(UserError, match=r"_0002\.bin.* is missing"):
        made(tmp_path).check(1)
