"""The folder of a run: its log file, its checkpoints, and the checkpoint that it resumes from."""

from __future__ import annotations

import json
import logging
import weakref
from pathlib import Path

from .. import distributed
from ..config.paths import with_absolute_paths
from ..config.settings import Config
from .checkpoint import (
    BEST,
    NAME,
    VERSIONS,
    check_unchanged,
    load_checkpoint,
    load_newest,
    save_checkpoint,
    set_aside,
    tidy,
)
from .files import check_writable, plain, write_whole
from .lock import FolderLock
from .log_file import LOG, open_log

_FILES = (NAME, "metrics.jsonl", "metrics.json", "results.json", "config.json", "log.txt", BEST)


class RunFolder:
    """The files of one run. Rank 0 writes them; the other ranks write only a log of their own warnings.

    ``checkpoint.pt`` and older ones, ``best.pt`` (with ``run.best_metric``), ``metrics.jsonl`` (log entries and
    evaluations, one per line), ``metrics.json`` (result and history), ``log.txt``, ``config.json``.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.main = distributed.is_main()
        self._lock = FolderLock(self.path)
        self._saved_at: int | None = None
        self.resumed_from: Path | None = None
        """The checkpoint that the run has resumed from."""

    @property
    def continues_another(self) -> bool:
        """Whether the run has resumed from a checkpoint in another folder."""
        return self.resumed_from is not None and self.resumed_from.parent != self.path.resolve()

    def check_outputs(self) -> None:
        """Makes the folder; OSError for the first of its files that cannot be written."""
        for name in _FILES:
            check_writable(self.path / name)

    def open(self) -> None:
        """Makes and locks the folder, removes temporary files of killed processes and opens the log file.

        ValueError if another run is in the folder, OSError for the first file that cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if self.main:
            warning = self._lock.acquire()
            weakref.finalize(self, self._lock.release)
            self.check_outputs()
            tidy(self.path)
            open_log(self.path / "log.txt")
            if warning is not None:
                self.warn(warning)
        else:  # what only this rank can report: a broken image of its share, the traceback of an error
            open_log(self.path / f"log_rank{distributed.rank()}.txt", logging.WARNING)

    def close(self) -> None:
        """Gives the folder back to other runs."""
        self._lock.release()

    def begin(self, config: Config) -> None:
        """Moves the checkpoints of an earlier run aside, unless this run resumes from one of them; writes config.json.

        Until then a run that is refused leaves the files of the earlier one as they are.
        """
        if not self.main:
            return
        self._lock.acquire()  # held since open(), unless the run was closed and goes on
        if self.resumed_from is None or self.continues_another:
            set_aside(self.path)
        write_whole(self.path / "config.json", with_absolute_paths(config).to_json())

    def warn(self, message: str) -> None:
        """Logs a warning on rank 0."""
        if self.main:
            LOG.warning("%s", message)

    def find(self, source: Path | str) -> tuple[Path, dict] | None:
        """The checkpoint to resume from and its state, on every rank; rank 0 reads the file.

        Args:
            source: a checkpoint, or "auto" for the newest usable one of this folder (None if it has no checkpoint).
        """
        found = None
        with distributed.together():
            if self.main:
                found = load_newest(self.path, self.warn) if source == "auto" else (source, load_checkpoint(source))
        found = distributed.broadcast(found)
        return None if found is None else (Path(found[0]).resolve(), found[1])

    def check(self, path: Path, state: dict, config: Config, allowed: tuple[str, ...]) -> None:
        """ValueError if a run of ``config`` cannot resume from this checkpoint. Other versions are a warning."""
        if "optimizer" not in state:
            raise ValueError(f"{path} holds no optimizer state to resume from")
        check_unchanged(path, state, config, allowed)
        for name, version in VERSIONS.items():
            if state[name] != version:
                self.warn(f"{path} was written by {name} {state[name]}, this is {version}: bits may differ")

    def resumed(self, path: Path, iteration: int) -> None:
        """Remembers the checkpoint that the run has resumed from."""
        self.resumed_from = path
        self._saved_at = iteration if path == self.path.resolve() / NAME else None

    def save(self, state: dict, keep: int) -> None:
        """Writes ``state`` to checkpoint.pt and keeps the ``keep`` newest checkpoints; rank 0 only.

        A second state of one iteration (its weights are the same, an evaluation was added) replaces the first.
        """
        again = self._saved_at == state["iteration"]
        save_checkpoint(self.path / NAME, state, keep=None if again else keep)
        self._saved_at = state["iteration"]

    def save_metrics(self, iteration: int, metrics: dict[str, float], history: list[dict]) -> None:
        """Writes metrics.json; rank 0 only."""
        result = {"iteration": iteration, "metrics": metrics, "history": history}
        write_whole(self.path / "metrics.json", json.dumps(plain(result), indent=1) + "\n")
