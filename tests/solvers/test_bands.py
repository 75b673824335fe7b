"""Bad bands are left out by the scene and the unmixer alike, or the unmixer is refused."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unmix_jax import (
    Fan,
    Linear,
    ScaleSlopeShift,
    Scene,
    Solution,
    bundle_fcls,
    choose,
    fcls,
    invert,
    lp_sunsal,
    marginal,
    mesma,
    ncm,
    nnls,
    on_bands,
    prepare,
    prepare_bundles,
    prepare_inversion,
    prepare_mesma,
    prepare_ncm,
    prepare_sparse,
    prepare_synthesis,
    scls,
    sunsal,
    ucls,
    unmix,
)  # fmt: skip
from unmix_jax.solvers.bands import require_bands
from unmix_jax.solvers.distributions import Normal

BANDS, COUNT, PIXELS = 16, 3, 20
RNG = np.random.default_rng(2)
ENDMEMBERS = RNG.uniform(0.2, 0.8, (COUNT, BANDS)).astype(np.float32)
SHARES = RNG.dirichlet(np.ones(COUNT), PIXELS)
CUBE = (SHARES @ ENDMEMBERS).astype(np.float32)
GOOD = np.ones(BANDS, bool)
GOOD[[2, 3, 9]] = False
FEWER = GOOD.copy()
FEWER[12] = False  # a problem may leave out more than the scene does
SPOILT = np.where(GOOD, CUBE, np.float32(55.0))
SPECTRA = np.where(GOOD, ENDMEMBERS, np.float32(7.0))  # what they hold in bad bands is not looked at

ARRAYS = {
    "ucls": eqx.Partial(ucls, endmembers=SPECTRA),
    "scls": eqx.Partial(scls, endmembers=SPECTRA),
    "nnls": eqx.Partial(nnls, endmembers=SPECTRA),
    "fcls": eqx.Partial(fcls, endmembers=SPECTRA),
    "sunsal": eqx.Partial(sunsal, library=SPECTRA, l1=0.0),
    "lp_sunsal": eqx.Partial(lp_sunsal, library=SPECTRA, lp=1e-7),
    "invert": eqx.Partial(invert, endmembers=SPECTRA, mixing=Linear()),
}
VARIED = ScaleSlopeShift(ENDMEMBERS, scale=0.05, slope=0.0, shift=0.0)
PREPARED = {
    "fcls": lambda good: eqx.Partial(fcls, endmembers=prepare(ENDMEMBERS, weights=good)),
    "functools": lambda good: functools.partial(fcls, endmembers=prepare(ENDMEMBERS, weights=good)),
    "sunsal": lambda good: eqx.Partial(sunsal, library=prepare_sparse(ENDMEMBERS, weights=good), l1=0.0),
    "invert": lambda good: eqx.Partial(invert, endmembers=prepare_inversion(ENDMEMBERS, Linear(), good_bands=good)),
    "bundles": lambda good: eqx.Partial(bundle_fcls, bundles=prepare_bundles(ENDMEMBERS, "abc", weights=good)),
    "mesma": lambda good: eqx.Partial(
        mesma, endmembers=prepare_mesma(ENDMEMBERS, list("abc"), good_bands=good, levels=(2, 3))
    ),
    "ncm": lambda good: eqx.Partial(
        ncm, endmembers=prepare_ncm(Normal.isotropic(ENDMEMBERS, 0.01), noise=0.01, good_bands=good)
    ),
    "synthesis": lambda good: eqx.Partial(
        marginal, endmembers=prepare_synthesis(VARIED, noise=0.01, good_bands=good, samples=64)
    ),
    "choice": lambda good: choose({
        name: eqx.Partial(invert, endmembers=prepare_inversion(ENDMEMBERS, model, good_bands=good))
        for name, model in {"linear": Linear(), "fan": Fan()}.items()
    }),
}  # fmt: skip


@pytest.mark.parametrize("given", ["scene", "argument"])
@pytest.mark.parametrize("unmixer", ARRAYS.values(), ids=ARRAYS)
def test_endmembers_as_an_array_lose_the_bad_bands_of_the_scene(unmixer, given):
    if given == "scene":
        found = unmix(unmixer, Scene(SPOILT, good_bands=GOOD))
    else:
        found = unmix(unmixer, SPOILT, good_bands=GOOD)
    np.testing.assert_allclose(found.abundances, SHARES, atol=2e-4)
    np.testing.assert_allclose(found.residual, 0, atol=1e-5)
    assert found.converged.all()


@pytest.mark.parametrize("make", PREPARED.values(), ids=PREPARED)
def test_a_prepared_problem_must_leave_them_out(make):
    with pytest.raises(ValueError, match=r"bands 3–4, 10 of the pixels are bad, .* looks at bands 3–4, 10: prepare"):
        unmix(make(None), Scene(SPOILT, good_bands=GOOD))
    require_bands(make(GOOD), GOOD)
    require_bands(make(FEWER), GOOD)
    with pytest.raises(ValueError, match="looks at band 13: prepare"):
        require_bands(make(GOOD), FEWER)


@pytest.mark.parametrize("name", ["fcls", "sunsal", "invert", "bundles", "ncm"])
@pytest.mark.parametrize("good", [GOOD, FEWER], ids=["the same", "fewer"])
def test_and_then_gives_the_abundances(name, good):
    found = unmix(PREPARED[name](good), Scene(SPOILT, good_bands=GOOD))
    np.testing.assert_allclose(found.abundances, SHARES, atol=0.02 if name == "ncm" else 2e-4)


class Plain(eqx.Module):
    """A callable of a user that does not say anything."""

    endmembers: jax.Array

    def __call__(self, pixel):
        return fcls(pixel, self.endmembers)


class Said(Plain):
    """One that does."""

    good: object = None


class Brightest(eqx.Module):
    """One that zeros do not mislead."""

    def __call__(self, pixel):
        nothing = jnp.zeros((), pixel.dtype)
        return Solution(jnp.max(pixel)[None], nothing, nothing, jnp.zeros((), jnp.int32), jnp.asarray(True))


SILENT = {
    "module": Plain(jnp.asarray(ENDMEMBERS)),
    "closure": lambda pixel: fcls(pixel, ENDMEMBERS),
    "positional": functools.partial(fcls, endmembers=ENDMEMBERS),
}


@pytest.mark.parametrize("unmixer", SILENT.values(), ids=SILENT)
def test_a_callable_that_does_not_say_its_bands_is_refused(unmixer):
    with pytest.raises(ValueError, match=r"does not say at which bands it looks: .*on_bands\(unmixer, scene"):
        unmix(unmixer, Scene(SPOILT, good_bands=GOOD))
    unmix(unmixer, CUBE)  # where all are good there is nothing to say
    unmix(unmixer, CUBE, good_bands=np.ones(BANDS, bool))


def test_a_callable_that_does_is_believed():
    masked = jnp.asarray(np.where(GOOD, ENDMEMBERS, 0))
    for stated in (GOOD, np.flatnonzero(GOOD)):
        found = unmix(Said(masked, stated), Scene(SPOILT, good_bands=GOOD))
        np.testing.assert_allclose(found.abundances, SHARES, atol=2e-4)
    for stated, message in ((None, "looks at bands 3–4, 10"), (np.arange(3), "looks at band 3:")):
        with pytest.raises(ValueError, match=message):
            unmix(Said(masked, stated), Scene(SPOILT, good_bands=GOOD))
    for stated, message in (
        (np.ones(5, bool), "prepared for 5 bands, the pixels have 16"),
        (np.array([40]), "band 41"),
    ):
        with pytest.raises(ValueError, match=message):
            unmix(Said(masked, stated), Scene(SPOILT, good_bands=GOOD))


def test_on_bands_says_it_for_a_callable():
    found = unmix(on_bands(Brightest(), GOOD), Scene(SPOILT, good_bands=GOOD))
    np.testing.assert_array_equal(found.abundances[:, 0], CUBE[:, GOOD].max(1))
    np.testing.assert_array_equal(
        on_bands(Brightest(), GOOD)(jnp.asarray(SPOILT[0])).abundances[0], CUBE[0, GOOD].max()
    )
    found = unmix(on_bands(ARRAYS["fcls"], GOOD), Scene(SPOILT, good_bands=GOOD))
    np.testing.assert_allclose(found.abundances, SHARES, atol=2e-4)
    with pytest.raises(ValueError, match="looks at bands 3–4, 10: prepare"):
        on_bands(PREPARED["fcls"](None), GOOD)
    with pytest.raises(ValueError, match="at least one good band"):
        on_bands(Brightest(), np.zeros(BANDS, bool))
