"""Memory of this process while it works, for benches, long runs and tests."""

import ctypes
import threading
import time
from pathlib import Path

MOST_MAPS = 25_000


def forget_programs() -> None:
    """Forget compiled programs before their memory maps reach the limit of the system (65530 on Linux: abort)."""
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MAPS:
        import jax

        jax.clear_caches()


class Watch:
    """Peaks of this process's anonymous memory, MB, seen from a thread (Linux; NaN elsewhere)."""

    PAUSE = 0.02  # seconds

    def __init__(self) -> None:
        """Start."""
        self.status = Path("/proc/self/status")
        self.peak, self.running = self.resident(), True
        self.thread = threading.Thread(target=self.look)
        self.thread.start()

    def resident(self) -> float:
        """Anonymous memory now."""
        if not self.status.exists():
            return float("nan")
        text = self.status.read_text()
        return int(text[text.index("RssAnon") :].split(maxsplit=2)[1]) / 1024

    def look(self) -> None:
        """Until told to stop."""
        while self.running:
            self.peak = max(self.peak, self.resident())
            time.sleep(self.PAUSE)

    def taken(self) -> float:
        """The peak since the last call."""
        now = self.resident()
        peak, self.peak = max(self.peak, now), now
        return peak

    def stop(self) -> None:
        """No thread is left behind."""
        self.running = False
        self.thread.join()


def give_back() -> None:
    """Return freed memory to the system where the C library can: reused, it would hide what grows."""
    if Path("/proc/self/status").exists() and hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
