"""The demonstration on the data that ship with the package."""

import json

import numpy as np
import pytest

from unmix_jax.demo import run_demo


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    calls = []
    result = run_demo(folder, quick=True, progress=lambda done, total: calls.append((done, total)))
    return folder, result, calls


def test_the_powders_come_out_as_published(demonstration):
    _, result, _ = demonstration
    rows = result.tables[-1][2]
    shares = [float(row[2]) for row in rows]
    misfits = [float(row[3]) for row in rows]
    np.testing.assert_allclose(shares, [0.500, 0.522, 0.701], atol=1.5e-3)
    np.testing.assert_allclose(misfits, [0.0, 0.035, 0.043], atol=6e-4)


def test_the_maps_are_certified(demonstration):
    folder, _, _ = demonstration
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    assert record["converged_share"] == 1.0
    assert record["gap"]["worst"] < 5e-5
    assert record["gap"]["reached_share"] == 1.0
    assert record["abundance_bound"]["within_share"] == 1.0
    assert record["abundance_bound"]["largest"] <= record["abundance_bound"]["limit"] == 1e-3
    page = (folder / "report.html").read_text(encoding="utf-8")
    for said in ("pixels, optimum reached", "abundances within 0.001 of it", "largest bound on abundances"):
        assert said in page
    columns, rows = demonstration[1].tables[-1][1:]
    assert columns[-2:] == ("optimum reached", "abundances within")
    assert all(row[-2] == "yes" and float(row[-1]) <= 1e-3 for row in rows)
    assert sum(record["mean_abundances"]) == pytest.approx(1, abs=1e-4)
    assert record["mean_abundances"] == sorted(record["mean_abundances"], reverse=True)


def test_the_report_is_whole_and_self_contained(demonstration):
    folder, result, _ = demonstration
    page = result.report.read_text(encoding="utf-8")
    assert result.report == folder / "report.html"
    for wanted in ("Indian Pines", "CC BY 3.0", "montmorillonite", "Woods", "HySime finds", "public domain"):
        assert wanted in page
    assert page.count("data:image/png;base64,") == 12  # with the map of the bound on abundances
    assert "http:" not in page
    assert "https:" not in page
    assert "<script" not in page


def test_progress_counts_to_the_end(demonstration):
    done, total = zip(*demonstration[2], strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == total[-1]


def test_a_folder_in_use_is_refused(demonstration):
    with pytest.raises(ValueError, match="another run"):
        run_demo(demonstration[0], quick=True)
