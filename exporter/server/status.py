"""What the probes and the home page say about the state of the exporter."""

from __future__ import annotations

from exporter.server.pipeline import Pipeline
from exporter.server.reload import Reloader
from exporter.storage import Store
from exporter.storage.window_snapshots import ReplicaLease


class Status:
    """The state of the exporter.

    Parameters
    ----------
    pipeline, store
        Their threads must run.
    lease
        Lets this exporter save its windows.
    reloader
        Knows which files are not valid.

    Attributes
    ----------
    ready : bool
        Whether events are accepted: from the start until a stop is asked for.
    """

    def __init__(self, pipeline: Pipeline, store: Store, lease: ReplicaLease, reloader: Reloader) -> None:
        self.ready = True
        self._pipeline, self._store, self._lease, self._reloader = pipeline, store, lease, reloader

    @property
    def alive(self) -> bool:
        """Whether the threads of the queue and of the store run."""
        return self._pipeline.alive and self._store.alive

    @property
    def warnings(self) -> list[str]:
        """Problems that an operator should look into although events are accepted and stored."""
        texts = {
            "a damaged database or write-ahead log was set aside: see runbook ModelStoreFailing": self._store.set_aside,
            "windows are not saved: another exporter has the same store.replica": self._lease.holder,
        }
        return [text for text, applies in texts.items() if applies] + self._reloader.files.invalid
