"""The output folder of a run: what it holds, who may write to it, where its log goes."""

import shutil
from pathlib import Path

from config.scalars import dump
from misc.checkpoints.read import BEST, LAST, older_checkpoints
from misc.process import distributed
from misc.process.durable import leftovers, make_folder, write_text
from misc.process.logs import log_to
from options import Options, UserError, to_dict

BAD_IMAGES = "bad_images.txt"
RUN_FILES = (
    *("options.yaml", "log.txt", "metrics.jsonl", "results.json", "curves.png", "ranking.png"),
    *("model_card.md", BAD_IMAGES),
)
FILES_OF_TRAINING = ("options.yaml", "metrics.jsonl", LAST, BEST)


def refuse_to_overwrite(folder: Path, overwrite: bool) -> None:
    """Raise UserError where a fresh run would write into the folder of another one, without `overwrite`."""
    found = _files_of_training(folder)
    if found and not overwrite:
        raise UserError(
            f"output.dir: '{folder}' holds a run ({', '.join(found)}); continue it with --resume, choose "
            "another folder with --output-dir, or set output.overwrite=true"
        )


def evaluation_folder(folder: Path) -> Path:
    """Where an evaluation writes: the output folder, or `evaluation` in it where it holds a training run."""
    return folder / "evaluation" if _files_of_training(folder) else folder


def _files_of_training(folder: Path) -> list[str]:
    """The files of a training run that the folder holds, as rank 0 sees it."""
    return distributed.broadcast_object([name for name in FILES_OF_TRAINING if (folder / name).exists()])


def open_folder(folder: Path, fresh: bool) -> None:
    """Make the output folder and begin its log. A fresh run removes an earlier run's files, no others.

    Raises:
        UserError: it cannot be made, or a file in it cannot be replaced; nothing is removed then, where that
            can be told before.
    """
    make_folder(folder, "output.dir")
    if distributed.is_main():
        _check_replaceable(folder)
        for path in (path for name in RUN_FILES for path in leftovers(folder / name)):
            path.unlink(missing_ok=True)
    if fresh and distributed.is_main():
        for path in (*(folder / name for name in (*RUN_FILES, LAST, BEST)), *older_checkpoints(folder)):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                reason = f"'{path}' cannot be replaced ({error.strerror}); choose another folder"
                raise UserError(f"output.dir: {reason}") from error
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    log_to(folder)


def _check_replaceable(folder: Path) -> None:
    """Raise UserError where a folder has the name of a file that a run writes."""
    for path in (folder / name for name in (*RUN_FILES, LAST, BEST)):
        if path.is_dir():
            raise UserError(
                f"output.dir: '{path}' is a folder, but a run writes a file of that name; remove it, or "
                "choose another output folder with --output-dir"
            )


def write_options(options: Options, folder: Path) -> None:
    """Write the resolved options as `options.yaml`, which is itself a valid --config."""
    if distributed.is_main():
        write_text(folder / "options.yaml", dump(to_dict(options)))
