"""The page of a run: self-contained, escaped, complete."""

import base64
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from unmix_jax.page import Picture, Section, Table, write_page
from unmix_jax.report import write_run_report
from unmix_jax.results import Results, read_results, write_results
from unmix_jax.scenes.scene import Scene, SpectralAxis, SpectralLibrary
from unmix_jax.types import Solution

EVIL = '<script>alert("x")</script> & "Grès", $1'
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Every element with its attributes, the text, and whether all elements are closed in order."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self.open = [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def assert_self_contained(page):
    for tag, attributes in page.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        assert "href" not in attributes
        assert attributes.get("src", "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    for outside in ("@import", "url(", "http:", "https:"):
        assert outside not in page.source


def run_of(shape=(5, 6), *, unit="reflectance", unique=None, masked=1):
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    axis = SpectralAxis(np.linspace(450.0, 900.0, 8))
    library = SpectralLibrary(rng.uniform(0.1, 0.9, (3, 8)).astype(np.float32), axis, ("Soil", EVIL, "Wasser"))
    abundances = rng.dirichlet(np.ones(3), shape).astype(np.float32)
    abundances.reshape(-1, 3)[:masked] = np.nan
    number = abundances[..., 0] * 1e-7
    converged = jnp.asarray(np.isfinite(number))
    solution = Solution(
        jnp.asarray(abundances), jnp.asarray(number), jnp.asarray(number), jnp.ones(shape, int), converged,
        unique=None if unique is None else jnp.full(shape, unique),
    )  # fmt: skip
    scene = Scene(abundances @ library.spectra, axis, name="scène <1>", unit=unit)
    return solution, scene, library


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    solution, scene, library = run_of()
    config = {"method": "fcls", "count": 3}
    results = write_results(folder, solution, scene, endmembers=library, config=config, timings={"unmix": 0.25}, seed=1)
    scores = {
        "rmse": 0.0123,
        "rmse_per_endmember": 0.02,
        "mean_sad": 0.05,
        "sad_Soil": 0.04,
        "rmse_Soil": 0.777,
    }
    path = write_run_report(
        folder / "report.html", results, scene, command="unmix-jax unmix <x>", scores=scores, extracted=True
    )
    return Page(path)


def test_the_page_is_self_contained(written):
    assert_self_contained(written)


def test_names_are_escaped(written):
    assert "alert" in "".join(written.text)
    assert "<script" not in written.source
    assert "unmix-jax unmix <x>" in "".join(written.text)
    assert "scène <1>" in "".join(written.text)


def test_pictures_are_embedded_and_described(written):
    images = [attributes for tag, attributes in written.elements if tag == "img"]
    assert len(images) == 6
    for image in images:
        png = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"), validate=True)
        assert png[:4] == b"\x89PNG"
        assert image["alt"]
        assert 100 < int(image["width"]) < 1000


@pytest.mark.parametrize(
    "text",
    ["Abundances", "Endmembers", "Fit and certificate", "How to read this", "Record", "0.0123", "0.777",
     "0.25", "worst gap", "option: method", "fcls", "taken from pixels of the scene",
     "never a share of mass"],
)  # fmt: skip
def test_the_page_says(written, text):
    assert text in " ".join("".join(written.text).split())


def test_it_is_fit_for_phone_and_dark(written):
    assert "prefers-color-scheme: dark" in written.source
    assert any(attributes.get("name") == "viewport" for tag, attributes in written.elements if tag == "meta")


@pytest.mark.parametrize("shape", [(5, 6), (7,)])
def test_lists_and_radiance_and_ambiguity(tmp_path, shape):
    solution, scene, library = run_of(shape, unit="radiance", unique=False)
    results = write_results(tmp_path, solution, scene, endmembers=library)
    text = "".join(Page(write_run_report(tmp_path / "report.html", results, scene)).text)
    assert "more than one best answer" in text
    assert "The values are radiance" in text
    assert "Scores" not in text


def test_a_run_that_was_read_back_and_is_masked_throughout(tmp_path):
    solution, scene, library = run_of(masked=30)
    write_results(tmp_path, solution, scene, endmembers=library)
    results = read_results(tmp_path)
    assert isinstance(results, Results)
    assert_self_contained(Page(write_run_report(tmp_path / "report.html", results, scene)))


def test_any_sections(tmp_path):
    figure = Figure(figsize=(2, 1))
    table = Table(("name", "value"), [["a", 1.5], ["b", None], [EVIL, 12345]], caption="A table")
    sections = [Section("One & only", ["text <i>"], [Picture(figure, "seen")], [table]), Section("Empty")]
    page = Page(write_page(tmp_path / "x.html", sections, title=EVIL, tiles=[("pixels", "12")]))
    assert_self_contained(page)
    text = "".join(page.text)
    for wanted in ("One & only", "text <i>", "A table", "12,345", "–", "1.5", EVIL):
        assert wanted in text
    assert table.numeric == [False, True]
