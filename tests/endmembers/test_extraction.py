"""VCA and N-FINDR: exact recovery, the papers' loops as oracles, brute force, and refusals."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

from unmix_jax.endmembers.extraction import nfindr, vca
from unmix_jax.metrics import mean_sad
from unmix_jax.scenes.scene import Scene

KEY = jax.random.key(7)
EXTRACTORS = {"vca": vca, "nfindr": nfindr}
extractors = pytest.mark.parametrize("extract", EXTRACTORS.values(), ids=EXTRACTORS.keys())


def simplex(count, *, seed=0, pixels=400, bands=30, snr=None, pure=True):
    """Mixtures (float64), their endmembers, and the pixels that are pure (a random place for each)."""
    rng = np.random.default_rng(seed)
    wave = np.linspace(0, 1, bands)
    endmembers = 0.4 + 0.3 * np.sin(rng.uniform(2, 14, (count, 1)) * wave + rng.uniform(0, 6, (count, 1)))
    abundances = rng.dirichlet(np.ones(count), pixels)
    where = rng.permutation(pixels)[:count]
    if pure:
        abundances[where] = np.eye(count)
    clean = abundances @ endmembers
    if snr is not None:
        clean = clean + np.sqrt(np.mean(clean**2) * 10 ** (-snr / 10)) * rng.standard_normal(clean.shape)
    return clean, endmembers, where


def vca_oracle(pixels, count, draws, snr=None):
    """The authors' program with columns as spectra; eigenvectors signed by their largest component."""
    y = pixels.T
    bands, n = y.shape

    def leading(matrix, size):
        u = np.linalg.svd(matrix)[0][:, :size]
        return u * np.sign(u[np.argmax(np.abs(u), axis=0), np.arange(size)])

    mean = y.mean(axis=1, keepdims=True)
    centred = y - mean
    u = leading(centred @ centred.T / n, count)
    if snr is None:
        x = u.T @ centred
        power_y, power_x = np.sum(y**2) / n, np.sum(x**2) / n + np.sum(mean**2)
        outside = (power_y - power_x) * n / (n - 1 - count)  # what the mean and the components leave to the noise
        snr = 10 * np.log10((power_y - outside - count / bands * power_y) / outside)
    if snr < 15 + 10 * np.log10(count):
        u = u[:, : count - 1]
        x = u.T @ centred
        projected = u @ x + mean
        points = np.vstack([x, np.full(n, np.sqrt(np.max(np.sum(x**2, axis=0))))])
    else:
        u = leading(y @ y.T / n, count)
        x = u.T @ y
        projected = u @ x
        points = x / (x.mean(axis=1) @ x)
    corners = np.zeros((count, count))
    corners[-1, 0] = 1
    chosen = []
    for i in range(count):
        f = draws[i] - corners @ np.linalg.pinv(corners) @ draws[i]
        chosen.append(int(np.argmax(np.abs(f @ points / np.linalg.norm(f)))))
        corners[:, i] = points[:, chosen[-1]]
    return chosen, projected.T[chosen], snr


def volume(pixels, chosen):
    """Volume of a simplex in the first principal components, by its determinant."""
    count = len(chosen)
    centred = pixels - pixels.mean(axis=0)
    scores = centred @ np.linalg.svd(centred, full_matrices=False)[2][: count - 1].T
    lifted = np.column_stack([np.ones(count), scores[list(chosen)]])
    return abs(np.linalg.det(lifted)) / np.prod(np.arange(1, count))


@extractors
@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pure_pixels_of_a_noise_free_simplex_are_found(extract, count, dtype):
    pixels, endmembers, where = simplex(count)
    with jax.enable_x64(dtype == np.float64):
        found = extract(KEY, pixels.astype(dtype), count)
    assert sorted(found.indices.tolist()) == sorted(where.tolist())
    assert found.endmembers.dtype == dtype
    assert found.coordinates is None
    order = [where.tolist().index(i) for i in found.indices.tolist()]
    assert_close(found.endmembers, endmembers[order].astype(dtype))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize(("snr", "given"), [(10.0, None), (45.0, None), (45.0, 0.0), (10.0, 99.0)])
def test_vca_is_the_authors_program(count, snr, given):
    pixels, *_ = simplex(count, snr=snr, seed=3)
    draws = np.asarray(jax.random.normal(KEY, (count, count), dtype=jnp.float32), dtype=np.float64)
    chosen, projected, expected_snr = vca_oracle(pixels, count, draws, given)
    found = vca(KEY, pixels, count, snr=given)
    assert found.indices.tolist() == chosen
    assert_close(found.endmembers, projected)
    assert_close(found.snr, expected_snr, scale=10.0)
    raw = vca(KEY, pixels, count, snr=given, denoise=False)
    assert_close(raw.endmembers, pixels[chosen])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("snr", "within"), [(15.0, 5.0), (30.0, 0.5), (50.0, 0.5)])
def test_vca_estimates_the_signal_to_noise_ratio(snr, within):
    pixels, *_ = simplex(3, pixels=4000, bands=80, snr=snr)
    assert abs(float(vca(KEY, pixels, 3).snr) - snr) < within


@pytest.mark.parametrize("pixels", [8, 12, 30, 80])
def test_vca_estimates_the_signal_to_noise_ratio_of_few_pixels(pixels):
    drawn = [simplex(3, seed=seed, pixels=pixels, bands=80, snr=30.0)[0] for seed in range(30)]
    found = [float(vca(KEY, spectra, 3).snr) for spectra in drawn]
    assert abs(np.mean(found) - 30.0) < 0.5


@pytest.mark.parametrize("snr", [20.0, 45.0])
@extractors
def test_noisy_scenes_give_endmembers_near_the_truth(extract, snr):
    pixels, endmembers, _ = simplex(4, pixels=2000, bands=60, snr=snr)
    found = extract(KEY, pixels.astype(np.float32), 4, denoise=True)
    assert mean_sad(found.endmembers, endmembers) < (0.12 if snr < 30 else 0.012)


@extractors
def test_permuting_pixels_permutes_indices(extract):
    pixels, *_ = simplex(4, snr=30.0)
    shuffle = np.random.default_rng(1).permutation(len(pixels))
    options = {"restarts": 30} if extract is nfindr else {}
    one, other = extract(KEY, pixels, 4, **options), extract(KEY, pixels[shuffle], 4, **options)
    assert sorted(shuffle[np.asarray(other.indices)].tolist()) == sorted(one.indices.tolist())


@extractors
def test_the_answer_belongs_to_the_key(extract):
    pixels, *_ = simplex(5, snr=15.0, pure=False)
    once, again = extract(KEY, pixels, 5), extract(KEY, pixels, 5)
    assert once.indices.tolist() == again.indices.tolist()
    others = [extract(jax.random.key(i), pixels, 5).indices.tolist() for i in range(5)]
    assert any(other != once.indices.tolist() for other in others)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nfindr_finds_the_largest_simplex_of_tiny_problems(count, seed):
    pixels = np.random.default_rng(seed).uniform(size=(14, 6))
    found = nfindr(KEY, pixels, count, restarts=30)
    best = max(volume(pixels, chosen) for chosen in combinations(range(14), count))
    np.testing.assert_allclose(found.volume, best, rtol=1e-5)
    np.testing.assert_allclose(volume(pixels, found.indices.tolist()), best, rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_no_single_replacement_enlarges_the_volume_of_nfindr():
    pixels, *_ = simplex(4, pixels=150, snr=20.0, pure=False)
    found = nfindr(KEY, pixels, 4, restarts=1)
    chosen = found.indices.tolist()
    reached = volume(pixels, chosen)
    np.testing.assert_allclose(found.volume, reached, rtol=1e-9)
    for corner in range(4):
        for pixel in range(150):
            assert volume(pixels, [*chosen[:corner], pixel, *chosen[corner + 1 :]]) <= reached * (1 + 1e-9)


def test_more_restarts_never_lose_volume_and_gain_it_where_there_are_local_optima():
    pixels = np.random.default_rng(5).normal(size=(300, 7))
    keys = jax.random.split(KEY, 6)
    few, many = ([float(nfindr(key, pixels, 6, restarts=n).volume) for key in keys] for n in (1, 16))
    assert all(one <= other for one, other in zip(few, many, strict=True))
    assert max(many) > 1.001 * min(few)


def test_nfindr_climbs_out_of_a_start_of_equal_pixels():
    corners = np.asarray([[1.0, 0, 0.2], [0, 1, 0.3], [0.1, 0.2, 1]])
    pixels = np.concatenate([np.repeat(corners[:1], 60, axis=0), corners[1:]])
    found = nfindr(KEY, pixels, 3, restarts=1)
    assert {tuple(row) for row in np.round(np.asarray(found.endmembers), 5).tolist()} == {
        tuple(row) for row in np.round(corners.astype(np.float32), 5).tolist()
    }


@extractors
def test_scenes_give_coordinates_and_leave_out_what_is_invalid(extract):
    pixels, endmembers, where = simplex(3, pixels=240)
    cube = np.insert(pixels.reshape(12, 20, 30), 4, np.nan, axis=-1)
    good = np.arange(31) != 4
    mask = np.ones((12, 20), bool)
    free = np.setdiff1d(np.arange(240), where)[:4]
    rows, columns = np.unravel_index(free, (12, 20))
    # Each would be an extreme pixel if it were used.
    cube[rows[0], columns[0]], cube[rows[1], columns[1], 2] = -9999.0, np.nan
    cube[rows[2], columns[2]], cube[rows[3], columns[3]] = 50.0 * np.arange(31), 0.0
    mask[rows[2], columns[2]] = False
    found = extract(KEY, Scene(cube, good_bands=good, mask=mask, nodata=-9999.0), 3)
    assert sorted(found.indices.tolist()) == sorted(where.tolist())
    assert found.coordinates.tolist() == np.transpose(np.unravel_index(found.indices, (12, 20))).tolist()
    assert np.isnan(found.endmembers).any(axis=0).tolist() == (~good).tolist()
    order = [where.tolist().index(i) for i in found.indices.tolist()]
    assert_close(found.endmembers[:, good], endmembers[order].astype(np.float32))
    assert extract(KEY, pixels.reshape(12, 20, 30), 3).coordinates.shape == (3, 2)


@extractors
@pytest.mark.parametrize(
    ("pixels", "count", "message"),
    [
        (simplex(3)[0], 1, "count=1"),
        (simplex(3)[0], 40, "30 bands, got count=40"),
        (simplex(3)[0][:5], 6, "6 endmembers were asked of 5 valid pixels"),
        (simplex(3)[0], 6, "span only"),
        (np.full((20, 5), 0.3), 2, "span only"),
        (np.full((20, 5), np.nan), 2, "none of the 20 pixels"),
        (np.ones(5), 2, r"got \(5,\)"),
    ],
)
def test_impossible_requests_are_refused(extract, pixels, count, message):
    with pytest.raises(ValueError, match=message):
        extract(KEY, pixels, count)


def test_nfindr_needs_a_start():
    with pytest.raises(ValueError, match="restarts"):
        nfindr(KEY, simplex(3)[0], 3, restarts=0)


def test_nfindr_takes_one_more_endmember_than_bands():
    pixels = np.random.default_rng(0).uniform(size=(12, 2))
    assert nfindr(KEY, pixels, 3).endmembers.shape == (3, 2)


def test_samson_is_within_the_published_range(shared_data):
    with np.load(shared_data / "samson" / "samson.npz", allow_pickle=False) as file:
        cube, reference = file["Y"], file["E"]
    angles = [mean_sad(vca(jax.random.key(seed), cube, 3).endmembers, reference) for seed in range(10)]
    assert 0.03 < np.median(angles) < 0.16
    assert mean_sad(nfindr(KEY, cube, 3, denoise=True).endmembers, reference) < 0.16


@extractors
@pytest.mark.parametrize("snr", [None, 20.0])
def test_where_numbers_of_every_pixel_are_kept_does_not_matter(extract, snr, monkeypatch, tmp_path):
    """In a file, and looked at in parts; and the scene stays in its file."""
    from unmix_jax.endmembers import extraction, moments

    pixels, _, _ = simplex(4, snr=snr)
    plain = extract(KEY, pixels, 4)
    monkeypatch.setattr(extraction, "IN_MEMORY", 100)
    monkeypatch.setattr(extraction, "AT_ONCE", 37)
    monkeypatch.setattr(moments, "BLOCK_BYTES", 8 * pixels.shape[1] * 53)
    np.save(tmp_path / "pixels.npy", pixels)
    parts = extract(KEY, np.load(tmp_path / "pixels.npy", mmap_mode="r"), 4)
    order, other = np.argsort(plain.indices), np.argsort(parts.indices)  # rounding may let N-FINDR go another way round
    np.testing.assert_array_equal(plain.indices[order], parts.indices[other])
    np.testing.assert_allclose(plain.endmembers[order], parts.endmembers[other], rtol=1e-5)
