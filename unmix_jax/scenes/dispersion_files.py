"""Dispersion parameters in a JSON file that people can read, and the exports of InfraRender that are around.

```json
{"format": "unmix_jax dispersion parameters", "version": 1, "units": {...},
 "minerals": [{"name": "quartz", "axes": [{"weight": 1.0, "epsilon_inf": 2.36, "oscillators": [
   {"frequency": 1072.0, "damping": 0.0071, "strength": 0.66}, ...]}, ...], "mse": 2e-5}]}
```

Only what is active is written. Numbers come back as they were; whatever stands beside these keys is metadata.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax.physics.dispersion import Dispersion, from_axes, stack, unstack
from unmix_jax.scenes.datasets import find
from unmix_jax.scenes.units import existing, in_file

__all__ = ["load_dispersion", "save_dispersion"]

FORMAT, VERSION = "unmix_jax dispersion parameters", 1
SHIPPED = "mineral_dispersion/minerals.json"
UNITS = {
    "frequency": "cm^-1",
    "damping": "linewidth / frequency, dimensionless",
    "strength": "4 pi rho, dimensionless",
    "epsilon_inf": "dimensionless",
    "weight": "share of the crystal axis; sums to one over the axes",
}
INFRARENDER = {"freqs_cm1": "frequency", "gammas": "damping", "four_pi_rho": "strength"}


def save_dispersion(path: str | Path, names: Sequence[str], dispersion: Dispersion, **metadata: Any) -> Path:
    """Write a library of dispersion parameters.

    Args:
        path: the file, replaced if it is there.
        names: of the minerals.
        dispersion: the library (library, axis, oscillator), as from `physics.dispersion.stack`.
        metadata: what else to say. A list, tuple or array with one entry per mineral is written beside each of them,
            anything else once for the file.

    Returns:
        The path.

    Raises:
        ValueError: numbers of names and minerals that differ; values that are not finite; metadata under a name that
            the format uses, or that JSON cannot hold.
    """
    path = Path(path).expanduser()
    minerals = unstack(dispersion)
    if len(names) != len(minerals):
        raise ValueError(f"{len(names)} names for {len(minerals)} minerals")
    taken = {"format", "version", "units", "minerals", "name", "axes"} & metadata.keys()
    if taken:
        raise ValueError(f"metadata cannot be called {', '.join(sorted(taken))}: the file format uses the name")
    each = {k: v for k, v in metadata.items() if _per_mineral(v, len(minerals))}
    whole = {k: v for k, v in metadata.items() if k not in each}
    content = {"format": FORMAT, "version": VERSION, "units": UNITS, **whole}
    content["minerals"] = [
        {"name": str(name), **{k: v[i] for k, v in each.items()}, "axes": _axes(mineral)}
        for i, (name, mineral) in enumerate(zip(names, minerals, strict=True))
    ]
    with in_file(path):
        text = json.dumps(content, indent=1, default=_plain, allow_nan=False, ensure_ascii=False)
        _parse(json.loads(text))
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)
    return path


def load_dispersion(path: str | Path | None = None) -> tuple[list[str], Dispersion, dict[str, Any]]:
    """Read a library of dispersion parameters, this project's or an export of InfraRender.

    Args:
        path: a `.json` file; None: the library that ships with the package, fitted to measured optical constants.

    Returns:
        Names, the padded library (library, axis, oscillator), and the metadata: what is said of the file as it
        stands, what is said of minerals as a list with None where it is not said.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, another format or version, or a value that is missing or impossible; names the file and
            the place in it.
    """
    path = existing((find(SHIPPED) or SHIPPED) if path is None else path)
    with in_file(path):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not a JSON file, or a part of one: {error}") from None
        return _parse(content)


def _per_mineral(value: Any, count: int) -> bool:
    """Whether metadata has one entry for each mineral."""
    listed = isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0
    return listed and len(value) == count


def _plain(value: Any) -> Any:
    """What JSON knows for an array, a NumPy or JAX number, or a path."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "dtype"):
        array = np.asarray(value)
        return _number(array[()]) if array.ndim == 0 else [_plain(entry) for entry in array]
    raise ValueError(f"JSON has no place for {value!r}")


def _number(value: Any) -> Any:
    """A number by the fewest digits that give it back in its own precision."""
    return float(str(value)) if isinstance(value, np.floating) else value.item()


def _axes(mineral: Dispersion) -> list[dict[str, Any]]:
    """The crystal axes of one mineral without padding."""
    leaves = {name: np.asarray(getattr(mineral, name)) for name in (*INFRARENDER.values(), "epsilon_inf", "weights")}
    active = np.asarray(mineral.active)
    return [
        {
            "weight": _number(leaves["weights"][x]),
            "epsilon_inf": _number(leaves["epsilon_inf"][x]),
            "oscillators": [
                {name: _number(leaves[name][x, k]) for name in INFRARENDER.values()} for k in np.flatnonzero(active[x])
            ],
        }
        for x in range(len(active))
    ]


def _parse(content: Any) -> tuple[list[str], Dispersion, dict[str, Any]]:
    """Names, parameters and metadata of a file's content, checked."""
    whole = dict(_expect(content, dict, "the file"))
    if "minerals" not in whole and "endmembers" in whole:
        whole = _from_infrarender(whole)
    elif whole.get("format") != FORMAT:
        raise ValueError(f"the format is {whole.get('format')!r}, not {FORMAT!r} nor an export of InfraRender")
    elif whole.get("version") != VERSION:
        raise ValueError(f"version {whole.get('version')!r} of the format is not known, only {VERSION}")
    elif units := {k: v for k, v in whole.get("units", {}).items() if v != UNITS.get(k, v)}:
        raise ValueError(f"units {units} are not those of the format, {UNITS}")
    minerals = _expect(whole.pop("minerals", None), list, "'minerals'")
    if not minerals:
        raise ValueError("no minerals")
    names: list[str] = []
    members: list[Dispersion] = []
    for i, mineral in enumerate(minerals):
        name = _expect(_expect(mineral, dict, f"mineral {i}").get("name"), str, f"the name of mineral {i}")
        names.append(name)
        members.append(_mineral(mineral.get("axes"), f"mineral {name!r}"))
    keys = dict.fromkeys(key for mineral in minerals for key in mineral if key not in ("name", "axes"))
    metadata = {key: value for key, value in whole.items() if key not in ("format", "version", "units")}
    return names, stack(members), {**metadata, **{key: [m.get(key) for m in minerals] for key in keys}}


def _mineral(axes: Any, where: str) -> Dispersion:
    """One mineral of its axes as they stand in the file."""
    parts: dict[str, list[Any]] = {k: [] for k in ("frequency", "damping", "strength", "epsilon_inf", "weights")}
    for x, axis in enumerate(_expect(axes, list, f"'axes' of {where}")):
        at = f"axis {x} of {where}"
        _expect(axis, dict, at)
        parts["weights"].append(_value(axis, "weight", at, zero=True))
        parts["epsilon_inf"].append(_value(axis, "epsilon_inf", at))
        oscillators = _expect(axis.get("oscillators"), list, f"'oscillators' of {at}")
        for key in INFRARENDER.values():
            parts[key].append(
                [_value(o, key, f"oscillator {k} of {at}", zero=key == "strength") for k, o in enumerate(oscillators)]
            )
    if not parts["weights"]:
        raise ValueError(f"{where} has no axis")
    if not 0 < sum(parts["weights"]) < 1.1:
        raise ValueError(f"the weights of {where} sum to {sum(parts['weights']):g}, not to one")
    return from_axes(**parts)


def _from_infrarender(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of an export of InfraRender as one of this project's; bounds are left out."""
    minerals = []
    for key, member in _expect(content["endmembers"], dict, "'endmembers'").items():
        where = f"endmember {key!r}"
        axes = []
        for mode in _expect(_expect(member, dict, where).get("modes"), list, f"'modes' of {where}"):
            _expect(mode, dict, f"a mode of {where}")
            lists = [_expect(mode.get(theirs), list, f"{theirs!r} of {where}") for theirs in INFRARENDER]
            if len({len(values) for values in lists}) != 1:
                raise ValueError(f"{', '.join(INFRARENDER)} of {where} have {[len(v) for v in lists]} entries")
            oscillators = [dict(zip(INFRARENDER.values(), row, strict=True)) for row in zip(*lists, strict=True)]
            axes.append(
                {"weight": mode.get("weight"), "epsilon_inf": mode.get("epsilon_r"), "oscillators": oscillators}
            )
        said = {k: v for k, v in member.items() if k not in ("library_name", "modes")}
        minerals.append({**said, "name": member.get("library_name", key), "axes": axes})
    return {**{k: v for k, v in content.items() if k != "endmembers"}, "minerals": minerals}


def _expect(value: Any, kind: type, what: str) -> Any:
    """The value, if it is of this kind."""
    if not isinstance(value, kind):
        wanted = {"dict": "an object", "list": "a list", "str": "text"}
        raise ValueError(f"{what} must be {wanted[kind.__name__]}, got {_short(value)}")
    return value


def _value(holder: Any, key: str, where: str, *, zero: bool = False) -> float:
    """A finite number above zero, or not below it."""
    value = _expect(holder, dict, where).get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key!r} of {where} must be a number, got {_short(value)}")
    if not (0 <= value < 1e9) or (value < 1e-12 and not (zero and value == 0)) or not math.isfinite(value):
        least = "0 or from 1e-12" if zero else "from 1e-12"
        raise ValueError(f"{key!r} of {where} must be {least} to 1e9, got {_short(value)}")
    return float(value)


def _short(value: Any) -> str:
    """A value for a message."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
