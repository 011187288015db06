"""A bundle that is served, and changed under way: a new one on disk takes its place when it is whole.

The manifest is looked at now and then. A bundle that cannot be loaded is refused, with the reason, and the old one goes
on; it is tried again, ever more seldom.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from spherood.bundle.bundle import Bundle
from spherood.bundle.manifest import MANIFEST
from spherood.errors import ConfigError, SpheroodError

LATER = (1.0, 60.0)  # seconds until a refused one is tried again: at first, at most


@dataclass(frozen=True)
class Version:
    """A loaded bundle, and the beginning of its manifest's hash."""

    bundle: Bundle
    version: str


class Served:
    """``Served("digits", Path("runs/demo/bundle")).now.bundle``; errors as of `Bundle.load`."""

    def __init__(self, name: str, folder: Path, trust: Collection[str] = ()) -> None:
        self.name, self.folder, self.trust = name, folder, tuple(trust)
        self._seen, self._lock = self._stamp(), threading.Lock()  # before it is read: what comes meanwhile is newer
        self.now = self._load()
        self.refused = ""  # why a newer one is not served
        self._again, self._wait = 0.0, LATER[0]

    def refresh(self) -> bool:
        """Look whether there is another one, and take it; whether it was taken. Called by a thread of its own."""
        with self._lock:
            stamp = self._stamp()
            if stamp == self._seen and not (self.refused and time.monotonic() >= self._again):
                return False
            try:
                found = self._load()
            except (SpheroodError, OSError) as error:
                self._wait = LATER[0] if stamp != self._seen else min(2 * self._wait, LATER[1])
                self._seen, self._again, self.refused = stamp, time.monotonic() + self._wait, str(error)
                return False
            self._seen, self.refused = stamp, ""
            changed = found.version != self.now.version
            self.now = found
            return changed

    def _load(self) -> Version:
        manifest = self.folder / MANIFEST
        version = sha256(manifest.read_bytes()).hexdigest()[:12] if manifest.is_file() else ""
        bundle = Bundle.load(self.folder, trust=self.trust)
        if missing := [name for name in bundle.code if name not in self.trust]:
            raise ConfigError(
                f"{self.folder}: names code of one's own, {missing[0]}. If you trust it, say so: --trust {missing[0]}"
            )
        bundle.decision()
        return Version(bundle, version)

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = (self.folder / MANIFEST).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
