"""What the command does to its terminal and its process: tables, a progress bar, plain warnings, a cache."""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["keep_compilations", "plain_warnings", "progress_bar", "table", "visible"]


def visible(text: str) -> str:
    """One line of text that a terminal shows as it is: control characters of names in files are written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in " ".join(text.split()))


def keep_compilations() -> None:
    """Keep compiled programs between runs, where there is a place for them."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        try:
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unmix_jax"
            cache.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):
            return
        if os.access(cache, os.W_OK):
            jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


@contextlib.contextmanager
def progress_bar(what: str, unit: str = "px") -> Iterator[Callable[..., None]]:
    """A bar on the terminal (nowhere else), as the callback ``progress(done, total)``, or with a share unconverged."""
    from tqdm import tqdm

    with tqdm(desc=what, unit=f" {unit}", unit_scale=unit == "px", leave=False, disable=None, file=sys.stderr) as bar:

        def report(done: int, total: int, unsure: float | None = None) -> None:
            if bar.total is None and unsure is not None:
                bar.initial = bar.n = done  # a run that goes on: what was done before says nothing of the speed
            bar.total = total
            if unsure:
                bar.set_postfix_str(f"{100 * unsure:.2g} % not converged", refresh=False)
            bar.update(done - bar.n)

        yield report


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings about the user's data as one line each."""

    def show(message: Any, *_: Any, **__: Any) -> None:
        from tqdm import tqdm

        tqdm.write(f"unmix-jax: warning: {visible(str(message))}", file=sys.stderr)  # above a bar

    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning)
        warnings.showwarning = show
        yield


def table(rows: Sequence[Sequence[str]], columns: Sequence[str] = ()) -> str:
    """Aligned text; the first column is flush left, columns of numbers flush right."""
    columns, rows = [visible(c) for c in columns], [[visible(str(cell)) for cell in row] for row in rows]
    lines = [columns, *rows] if columns else rows
    widths = [max(len(str(line[i])) for line in lines) for i in range(len(lines[0]))]

    def aligned(line: Sequence[str]) -> str:
        cells = (v.rjust(w) if columns and i else v.ljust(w) for i, (v, w) in enumerate(zip(line, widths, strict=True)))
        return "  ".join(cells).rstrip()

    rule = ["-" * width for width in widths]
    return "\n".join(aligned(line) for line in ([columns, rule, *rows] if columns else rows))
