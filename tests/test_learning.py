"""Libraries on the bands of a sensor, before networks are trained."""

import numpy as np
import pytest

from unmix_jax.learning import seen_by
from unmix_jax.scenes.scene import Scene, SpectralAxis, SpectralLibrary

CENTERS = np.linspace(400.0, 1000.0, 61)
SPECTRA = np.stack([np.linspace(0.2, 0.8, 61), np.linspace(0.9, 0.3, 61)])
LIBRARY = SpectralLibrary(spectra=SPECTRA, axis=SpectralAxis(CENTERS), names=("clay", "lime"))
AXIS = SpectralAxis(np.linspace(450.0, 950.0, 11), np.full(11, 20.0))
GOOD = np.arange(11) != 3


def test_without_a_sensor_bands_stay_and_those_without_a_value_are_not_good():
    spectra = SPECTRA.copy()
    spectra[1, 7] = np.nan
    found = seen_by(SpectralLibrary(spectra=spectra, axis=SpectralAxis(CENTERS)), None)
    assert found.spectra.dtype == np.float32
    assert np.flatnonzero(~found.good_bands).tolist() == [7]
    assert len(found.names) == 2


@pytest.mark.parametrize(
    "sensor",
    [
        Scene(np.full((2, 3, 11), 0.5), axis=AXIS, good_bands=GOOD),
        SpectralLibrary(spectra=np.full((1, 11), 0.5), axis=AXIS, good_bands=GOOD),
    ],
    ids=["scene", "library"],
)
def test_bands_are_those_of_the_sensor(sensor):
    found = seen_by(LIBRARY, sensor)
    assert found.names == LIBRARY.names
    assert np.array_equal(found.good_bands, GOOD)
    np.testing.assert_allclose(found.spectra[0, GOOD], np.interp(AXIS.centers[GOOD], CENTERS, SPECTRA[0]), rtol=1e-3)


def test_sensors_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="names no wavelengths"):
        seen_by(LIBRARY, Scene(np.full((2, 3, 11), 0.5)))
    with pytest.raises(ValueError, match="do not overlap"):
        seen_by(LIBRARY, Scene(np.full((2, 3), 0.5), axis=SpectralAxis(np.array([2000.0, 2100.0, 2200.0]))))
