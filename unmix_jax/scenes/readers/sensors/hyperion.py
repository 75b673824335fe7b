"""EO-1 Hyperion at level 1T (USGS): a GeoTIFF for each of 242 bands, and a file of metadata, in one folder.

Layout: USGS, "EO-1 User Guide", version 2.3 (2003), and the files of the archive: ``EO1H…_B001_L1T.TIF`` to
``…_B242_L1T.TIF`` and ``EO1H…_MTL_L1T.TXT``. Opening any of them gives the scene.

- Radiance in W m⁻² sr⁻¹ µm⁻¹ = stored / scaling factor, 40 for bands 1 to 70 (VNIR) and 80 for 71 to 242 (SWIR) unless
  the metadata say otherwise (``SCALING_FACTOR_VNIR``, ``SCALING_FACTOR_SWIR``).
- 198 bands are calibrated: 8 to 57 and 77 to 224. The others are zero, and bad. Between 852 and 925 nm both
  spectrometers measure: bands 77 and 78 repeat 56 and 57 and are kept.
- Pixels that are 0 in all bands lie outside the swath and are missing.
- Centres and widths are those that USGS publishes for all scenes (EO-1 "Hyperion Spectral Coverage"); the smile across
  the track, up to 2.6 nm in the VNIR, is not described.

Level 1R is HDF4, which is refused with what to do.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax.scenes.lazy import LazyCube
from unmix_jax.scenes.readers.sensors.product import (
    BandStack,
    named,
    neighbours,
    open_raster,
    parse_mtl,
    per_band,
    place,
)
from unmix_jax.scenes.reading import Entries, Reading
from unmix_jax.scenes.scene import Header, Scene
from unmix_jax.scenes.units import spectral_axis

__all__ = ["is_hyperion", "read_hyperion"]

BAND = re.compile(r"(?P<stem>EO1H\w{1,60})_B(?P<band>\d{3})_(?P<level>L1\w{1,4})\.TIFF?", re.IGNORECASE)
METADATA = re.compile(r"(?P<stem>EO1H\w{1,60}?)_MTL(?:_(?P<level>L1\w{1,4}))?\.(?:TXT|L1T)", re.IGNORECASE)
RADIOMETRIC = re.compile(r"EO1H\w{1,60}\.L1R", re.IGNORECASE)
COUNT, VNIR = 242, 70
CALIBRATED = [*range(8, 58), *range(77, 225)]
# Groups of the metadata on where, when and how a scene was taken and made: they change no number.
CARRIED = ("METADATA_FILE_INFO/", "PRODUCT_METADATA/", "PRODUCT_PARAMETERS/", "PROJECTION_PARAMETERS/",
           "UTM_PARAMETERS/", "IMAGE_ATTRIBUTES/")  # fmt: skip
FACTORS = {"VNIR": 40.0, "SWIR": 80.0}  # what USGS documents; the metadata of each scene repeat them
# Band centres (nm), bands 1 to 242.
CENTERS = np.array([
    355.59, 365.76, 375.94, 386.11, 396.29, 406.46, 416.64, 426.82, 436.99, 447.17, 457.34, 467.52,
    477.69, 487.87, 498.04, 508.22, 518.39, 528.57, 538.74, 548.92, 559.09, 569.27, 579.45, 589.62,
    599.80, 609.97, 620.15, 630.32, 640.50, 650.67, 660.85, 671.02, 681.20, 691.37, 701.55, 711.72,
    721.90, 732.07, 742.25, 752.43, 762.60, 772.78, 782.95, 793.13, 803.30, 813.48, 823.65, 833.83,
    844.00, 854.18, 864.35, 874.53, 884.70, 894.88, 905.05, 915.23, 925.41, 935.58, 945.76, 955.93,
    966.11, 976.28, 986.46, 996.63, 1006.81, 1016.98, 1027.16, 1037.33, 1047.51, 1057.68, 851.92, 862.01,
    872.10, 882.19, 892.28, 902.36, 912.45, 922.54, 932.64, 942.73, 952.82, 962.91, 972.99, 983.08,
    993.17, 1003.30, 1013.30, 1023.40, 1033.49, 1043.59, 1053.69, 1063.79, 1073.89, 1083.99, 1094.09, 1104.19,
    1114.19, 1124.28, 1134.38, 1144.48, 1154.58, 1164.68, 1174.77, 1184.87, 1194.97, 1205.07, 1215.17, 1225.17,
    1235.27, 1245.36, 1255.46, 1265.56, 1275.66, 1285.76, 1295.86, 1305.96, 1316.05, 1326.05, 1336.15, 1346.25,
    1356.35, 1366.45, 1376.55, 1386.65, 1396.74, 1406.84, 1416.94, 1426.94, 1437.04, 1447.14, 1457.23, 1467.33,
    1477.43, 1487.53, 1497.63, 1507.73, 1517.83, 1527.92, 1537.92, 1548.02, 1558.12, 1568.22, 1578.32, 1588.42,
    1598.51, 1608.61, 1618.71, 1628.81, 1638.81, 1648.90, 1659.00, 1669.10, 1679.20, 1689.30, 1699.40, 1709.50,
    1719.60, 1729.70, 1739.70, 1749.79, 1759.89, 1769.99, 1780.09, 1790.19, 1800.29, 1810.38, 1820.48, 1830.58,
    1840.58, 1850.68, 1860.78, 1870.87, 1880.98, 1891.07, 1901.17, 1911.27, 1921.37, 1931.47, 1941.57, 1951.57,
    1961.66, 1971.76, 1981.86, 1991.96, 2002.06, 2012.15, 2022.25, 2032.35, 2042.45, 2052.45, 2062.55, 2072.65,
    2082.75, 2092.84, 2102.94, 2113.04, 2123.14, 2133.24, 2143.34, 2153.34, 2163.43, 2173.53, 2183.63, 2193.73,
    2203.83, 2213.93, 2224.03, 2234.12, 2244.22, 2254.22, 2264.32, 2274.42, 2284.52, 2294.61, 2304.71, 2314.81,
    2324.91, 2335.01, 2345.11, 2355.21, 2365.20, 2375.30, 2385.40, 2395.50, 2405.60, 2415.70, 2425.80, 2435.89,
    2445.99, 2456.09, 2466.09, 2476.19, 2486.29, 2496.39, 2506.48, 2516.59, 2526.68, 2536.78, 2546.88, 2556.98,
    2566.98, 2577.08,
])  # fmt: skip
# Full widths at half maximum (nm).
WIDTHS = np.array([
    11.3871, 11.3871, 11.3871, 11.3871, 11.3871, 11.3871, 11.3871, 11.3871, 11.3871, 11.3871, 11.3871, 11.3871,
    11.3871, 11.3784, 11.3538, 11.3133, 11.2580, 11.1907, 11.1119, 11.0245, 10.9321, 10.8368, 10.7407, 10.6482,
    10.5607, 10.4823, 10.4147, 10.3595, 10.3188, 10.2942, 10.2856, 10.2980, 10.3349, 10.3909, 10.4592, 10.5322,
    10.6004, 10.6562, 10.6933, 10.7058, 10.7276, 10.7907, 10.8833, 10.9938, 11.1044, 11.1980, 11.2600, 11.2824,
    11.2822, 11.2816, 11.2809, 11.2797, 11.2782, 11.2771, 11.2765, 11.2756, 11.2754, 11.2754, 11.2754, 11.2754,
    11.2754, 11.2754, 11.2754, 11.2754, 11.2754, 11.2754, 11.2754, 11.2754, 11.2754, 11.2754, 11.0457, 11.0457,
    11.0457, 11.0457, 11.0457, 11.0457, 11.0457, 11.0457, 11.0457, 11.0457, 11.0457, 11.0457, 11.0457, 11.0457,
    11.0457, 11.0457, 11.0457, 11.0451, 11.0423, 11.0372, 11.0302, 11.0218, 11.0122, 11.0013, 10.9871, 10.9732,
    10.9572, 10.9418, 10.9248, 10.9065, 10.8884, 10.8696, 10.8513, 10.8335, 10.8154, 10.7979, 10.7822, 10.7663,
    10.7520, 10.7385, 10.7270, 10.7174, 10.7091, 10.7022, 10.6970, 10.6946, 10.6937, 10.6949, 10.6996, 10.7058,
    10.7163, 10.7283, 10.7437, 10.7612, 10.7807, 10.8034, 10.8267, 10.8534, 10.8818, 10.9110, 10.9422, 10.9743,
    11.0074, 11.0414, 11.0759, 11.1108, 11.1461, 11.1811, 11.2156, 11.2496, 11.2826, 11.3146, 11.3460, 11.3753,
    11.4037, 11.4302, 11.4538, 11.4760, 11.4958, 11.5133, 11.5286, 11.5404, 11.5505, 11.5580, 11.5621, 11.5634,
    11.5617, 11.5563, 11.5477, 11.5346, 11.5193, 11.5002, 11.4789, 11.4548, 11.4279, 11.3994, 11.3688, 11.3366,
    11.3036, 11.2696, 11.2363, 11.2007, 11.1666, 11.1333, 11.1018, 11.0714, 11.0424, 11.0155, 10.9912, 10.9698,
    10.9508, 10.9355, 10.9230, 10.9139, 10.9083, 10.9069, 10.9057, 10.9013, 10.8951, 10.8854, 10.8740, 10.8591,
    10.8429, 10.8242, 10.8039, 10.7820, 10.7592, 10.7342, 10.7092, 10.6834, 10.6572, 10.6312, 10.6052, 10.5803,
    10.5560, 10.5328, 10.5101, 10.4904, 10.4722, 10.4552, 10.4408, 10.4285, 10.4197, 10.4129, 10.4088, 10.4077,
    10.4077, 10.4077, 10.4077, 10.4077, 10.4077, 10.4077, 10.4077, 10.4077, 10.4077, 10.4077, 10.4077, 10.4077,
    10.4077, 10.4077, 10.4077, 10.4077, 10.4077, 10.4077, 10.4077, 10.4077, 10.4077, 10.4077, 10.4077, 10.4077,
    10.4077, 10.4077,
])  # fmt: skip


def is_hyperion(path: Path) -> bool:
    """Whether a file (or a folder) belongs to a Hyperion scene, by its name."""
    if path.is_dir():
        return any(METADATA.fullmatch(name) or BAND.fullmatch(name) for name in neighbours(path))
    return any(pattern.fullmatch(path.name) for pattern in (BAND, METADATA, RADIOMETRIC))


def read_hyperion(path: Path, told: Reading) -> Scene:
    """Open a Hyperion scene by one of its bands, its metadata, or its folder; the bands stay in their files.

    Args:
        path: ``EO1H…_MTL_L1T.TXT``, ``EO1H…_B….TIF``, or the folder of one scene.
        told: what the user says.

    Returns:
        Radiance, [row, column, band]; bands whose file is not there are left out, and noted if they are calibrated.

    Raises:
        FileNotFoundError: no metadata, or no band.
        ValueError: level 1R, several scenes in a folder, a scaling factor that is none, bands of different sizes.
        ImportError: rasterio is not installed.
    """
    if RADIOMETRIC.fullmatch(path.name):
        raise ValueError(
            f"{path} is Hyperion level 1R, an HDF4 file, which is not read: take the scene at level 1T, or convert it "
            "with GDAL (gdal_translate -of ENVI) and open the result with --scale"
        )
    files = neighbours(path if path.is_dir() else path.parent)
    stem = _stem(path, files)
    bands = {int(m["band"]): f for m, f in named(BAND, files) if m["stem"].upper() == stem}
    found = [f for m, f in named(METADATA, files) if m["stem"].upper() == stem]
    if not found:
        raise FileNotFoundError(
            f"{path}: the metadata {stem}_MTL_L1T.TXT are not in the folder; the scaling of the radiance stands in them"
        )
    if absent := [b for b in bands if not 1 <= b <= COUNT]:
        raise ValueError(f"{path}: band {absent[0]} is none of the {COUNT} bands of Hyperion")
    if not set(bands) & set(CALIBRATED):
        raise FileNotFoundError(f"{path}: there is no file of a calibrated band, {stem}_B008_L1T.TIF to _B224_L1T.TIF")
    metadata, numbers = found[0], np.array(sorted(bands))
    entries = Entries(parse_mtl(metadata))
    factors = {which: _factor(entries, which, told, metadata) for which in FACTORS}
    entries.carry(*(name for name in entries.header() if name.startswith(CARRIED)))
    rasters = [open_raster(bands[number]) for number in numbers]
    if wrong := next((raster for raster in rasters if raster.count != 1), None):
        raise ValueError(f"{wrong.name} has {wrong.count} bands; one was expected")
    cube = BandStack([(raster, 1) for raster in rasters])
    good = np.isin(numbers, CALIBRATED)
    notes = []
    if lost := [number for number in CALIBRATED if number not in bands]:
        listed = ", ".join(map(str, lost[:12])) + (", …" if len(lost) > 12 else "")
        notes.append(f"the files of {len(lost)} calibrated band(s) are not in the folder (number {listed})")
    gain = 1 / np.where(numbers <= VNIR, factors["VNIR"], factors["SWIR"])
    unit = told.unit_of("nm", str(metadata))
    return Scene(
        LazyCube(cube, gain=per_band(gain), nodata=None),
        spectral_axis(CENTERS[numbers - 1], fwhm=WIDTHS[numbers - 1], unit=unit, where=str(metadata)),
        good_bands=good,
        name=stem,
        quantity="radiance",
        notes=tuple(notes),
        account=entries.account(),
        header=Header(dict(entries.header()) | place(rasters[0])),
    )


def _stem(path: Path, files: dict[str, Path]) -> str:
    """The name of the scene, in capitals."""
    for pattern in (BAND, METADATA):
        if found := pattern.fullmatch(path.name):
            return found["stem"].upper()
    stems = sorted({m["stem"].upper() for pattern in (BAND, METADATA) for m, _ in named(pattern, files)})
    if len(stems) != 1:
        held = ", ".join(stems[:4]) or "none"
        raise ValueError(f"{path} must hold one Hyperion scene, it holds {held}: open a file of the one that is wanted")
    return stems[0]


def _factor(entries: Entries, which: str, told: Reading, path: Path) -> float:
    """The scaling factor of a spectrometer."""
    name = f"SCALING_FACTOR_{which}"
    stated: Any = None
    for entry in entries.header():
        if entry.rpartition("/")[2] == name:
            stated = entries.use(entry)
    if stated is None:
        return FACTORS[which]
    try:
        factor = float(stated)
    except ValueError:
        factor = np.nan
    if not (np.isfinite(factor) and factor > 0) and told.scale is None:
        raise ValueError(f"{path}: {name} must be a number above 0, got {stated[:20]!r}; give --scale")
    return factor if np.isfinite(factor) and factor > 0 else FACTORS[which]
