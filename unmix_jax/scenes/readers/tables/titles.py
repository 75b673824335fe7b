"""What the titles of a table say: units, band centres, and what a column holds. Whole words only."""

import re
from typing import NamedTuple

from unmix_jax.scenes.units import CENTRE, NAME_LENGTH, unit_of

__all__ = [
    "CLASS_TITLES",
    "WIDEST",
    "Band",
    "band_of",
    "holds_flags",
    "holds_widths",
    "is_axis",
    "is_counter",
    "names_axis",
    "title_words",
    "unit_in",
    "units_in",
]

UNITS = {
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), "nm"),
    **dict.fromkeys(
        ("um", "µm", "µ", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres"), "um"
    ),
    **dict.fromkeys(("cm1", "wavenumber", "wavenumbers", "wavenum", "wellenzahl"), "cm-1"),
}
# Units that an axis may have elsewhere and that are not converted here; "cm" alone is a length, cm-1 is not meant.
OTHER_UNITS = frozenset(
    ("m", "cm", "mm", "pm", "å", "angstrom", "angstroms", "ångström", "hz", "khz", "mhz", "ghz", "thz", "ev", "mev")
)
AXIS_WORDS = frozenset(
    (
        "wavelength", "wavelengths", "wavelen", "wave", "waves", "wvl", "wvls", "wl", "wls", "wav", "lambda", "λ",
        "wavenumber", "wavenumbers", "wavenum", "wellenlänge", "wellenlaenge", "wellenlange", "wellenzahl",
    )
)  # fmt: skip
CLASS_TITLES = ("class", "classes", "group", "category", "material_class", "type", "level_1", "class_1")
WIDEST = 1000.0  # longest over shortest wavelength of one axis: 0.1 to 100 µm
FILLING = frozenset(("in", "x", "axis"))
COUNTERS = frozenset(("band", "bands", "channel", "channels", "ch", "index", "idx", "number", "no", "nr", "num", "row"))
NUMBERED = frozenset(("b", "band", "bands", "channel", "ch", "v", "var"))  # before a number that counts bands
# Words before a number that is a band centre: R puts an X before names that begin with a digit.
PREFIXES = frozenset(
    (
        "", "x", "r", "w", "wl", "wvl", "wave", "wavelength", "lambda", "nm", "refl", "reflectance", "rfl", "rrs",
        "rho", "emissivity", "spec", "spectrum",
    )
)  # fmt: skip
WAVENUMBER = re.compile(r"(?<![a-z0-9])(?:1/cm|cm\s?+\^?+\{?+-1\}?+)(?![0-9a-z])")
HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
BETWEEN_WORDS = re.compile(r"[^0-9a-zåöµλ]++")
BAND = re.compile(
    r"([a-zλ]*+)[\s_.:(\[-]*+([0-9]++(?:[.,][0-9]++)?+(?:e[+-]?+[0-9]++)?+)[\s_.]*+([a-zµ^⁻¹/-]*+(?:-1|1)?+)[)\]]?+",
    re.I,
)
LONGEST_BAND = 60  # characters of a title that is a band centre


class Band(NamedTuple):
    """A band centre out of a title: ``X400.5`` has the prefix x, ``450 nm`` the unit nm."""

    center: float
    unit: str | None
    prefix: str


def title_words(title: str) -> list[str]:
    """The words of a title in lower case: ``wavelength_nm`` and ``WavelengthNm`` have two; cm-1 is the word cm1."""
    if not title:
        return []
    text = HUMP.sub(" ", title[:NAME_LENGTH]).lower()
    text = text.replace("μ", "µ").replace("⁻¹", "-1").replace("−", "-").replace("_", " ")
    return [word for word in BETWEEN_WORDS.split(WAVENUMBER.sub(" cm1 ", text)) if word]


def units_in(title: str) -> set[str]:
    """The units (nm, um, cm-1) that a title names."""
    return {UNITS[word] for word in title_words(title) if word in UNITS}


def unit_in(title: str) -> str | None:
    """The unit that the title of an axis names; None where it names none.

    Raises:
        ValueError: it names two, or one that is none of nm, µm and cm-1.
    """
    found = units_in(title)
    if len(found) > 1:
        raise ValueError(
            f"the title {title[:NAME_LENGTH]!r} names more than one unit: say which holds with --unit, or correct it"
        )
    if not found:
        words = title_words(title)
        others = [word for word in words if word in OTHER_UNITS]
        if others and AXIS_WORDS & set(words):
            raise ValueError(
                f"the title {title[:NAME_LENGTH]!r} names the unit {others[0]}; an axis is in nm, µm or cm-1: convert "
                "it, or say with --unit what it is in"
            )
    return found.pop() if found else None


def is_axis(title: str) -> bool:
    """Whether a title is that of wavelengths or wavenumbers, by a word for them or by a unit alone."""
    words = [word for word in title_words(title) if word not in FILLING]
    return bool(AXIS_WORDS.intersection(words)) or (bool(words) and all(word in UNITS for word in words))


def names_axis(title: str) -> bool:
    """Whether a title has a word for wavelengths or wavenumbers; a unit alone is none."""
    return not AXIS_WORDS.isdisjoint(title_words(title))


def is_counter(title: str) -> bool:
    """Whether a title says that a column numbers the bands."""
    words = title_words(title)
    return bool(words) and all(word in COUNTERS for word in words)


def holds_widths(title: str) -> bool:
    """Whether a title is that of band widths: ``FWHM``, ``fwhm (nm)``, ``bandwidth_um``."""
    words = [word for word in title_words(title) if word not in UNITS]
    return words in (["fwhm"], ["bandwidth"], ["bandwidths"], ["band", "width"], ["band", "widths"])


def holds_flags(title: str) -> bool:
    """Whether a title is that of good bands, 1 where good: ``bbl``, ``good_bands``."""
    return title_words(title) in (["bbl"], ["good", "band"], ["good", "bands"], ["good", "wavelengths"])


def band_of(title: str, decimal_comma: bool = False) -> Band | None:
    """The band centre that a title is: ``400``, ``X400.5``, ``450nm``, ``R_400``, ``Band 3 (652.1 nm)``; or None.

    ``b12`` and ``Band 12`` have the prefix band: they number bands.
    """
    if not title or len(title) > LONGEST_BAND or not any(c.isdigit() for c in title):
        return None
    text = title.strip().replace("μ", "µ")
    found = BAND.fullmatch(text)
    if found:
        prefix, number, unit = found[1].lower(), found[2], found[3].strip("-_. ")
        known = _unit_word(unit)
        if (unit and known is None) or not (prefix in PREFIXES or prefix in NUMBERED or known):
            return None
        if "," in number and (known is None and not decimal_comma):
            return None
        center = float(number.replace(",", "."))
        return Band(center, known, "band" if prefix in NUMBERED and known is None else prefix)
    units = CENTRE.findall(text)
    return Band(float(units[0][0]), unit_of(units[0][1]), "") if len(units) == 1 else None


def _unit_word(text: str) -> str | None:
    """The unit that a single word is."""
    words = title_words(text)
    return UNITS.get(words[0]) if len(words) == 1 and words[0] not in AXIS_WORDS else None
