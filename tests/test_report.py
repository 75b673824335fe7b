"""The page of a run: self-contained, escaped, complete."""

import base64
from dataclasses import replace
from html.parser import HTMLParser

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from unmix_jax import plots
from unmix_jax.page import Picture, Section, Table, write_page
from unmix_jax.report import checks, run_tiles, write_run_report
from unmix_jax.results import Results, read_results, write_results
from unmix_jax.scenes.scene import Account, Scene, SpectralAxis, SpectralLibrary, thinned
from unmix_jax.types import Solution

EVIL = '<script>alert("x")</script> & "Grès", $1'
VOID = {"meta", "img", "br", "link", "hr", "input", "wbr"}


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


def run_of(shape=(5, 6), *, quantity="reflectance", unique=None, masked=1, names=("Soil", EVIL, "Wasser"), bound=None):
    rng = np.random.default_rng(0)
    axis = SpectralAxis(np.linspace(450.0, 900.0, 8))
    library = SpectralLibrary(rng.uniform(0.1, 0.9, (len(names), 8)).astype(np.float32), axis, names)
    abundances = rng.dirichlet(np.ones(len(names)), shape).astype(np.float32)
    abundances.reshape(-1, len(names))[:masked] = np.nan
    number = abundances[..., 0] * 1e-7
    converged = jnp.asarray(np.isfinite(number))
    solution = Solution(
        jnp.asarray(abundances), jnp.asarray(number), jnp.asarray(number), jnp.ones(shape, int), converged,
        unique=None if unique is None else jnp.full(shape, unique),
        abundance_bound=None if bound is None else jnp.asarray(np.resize(np.float32(bound), shape)) + 0 * number,
    )  # fmt: skip
    scene = Scene(abundances @ library.spectra, axis, name="scène <1>", quantity=quantity)
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
     "0.25", "worst gap (no unit)", "option: method", "pixels, optimum reached", "29 (100 %)",
     "Certified is said of the optimisation only", "no bound on abundances",
     "It says nothing about units and scale of these values", "RMS residual (reflectance)", "fcls",
     "taken from pixels of the scene",
     "never a share of mass"],
)  # fmt: skip
def test_the_page_says(written, text):
    assert text in " ".join("".join(written.text).split())


def test_it_is_fit_for_phone_and_dark(written):
    assert "prefers-color-scheme: dark" in written.source
    assert any(attributes.get("name") == "viewport" for tag, attributes in written.elements if tag == "meta")


@pytest.mark.parametrize("shape", [(5, 6), (7,)])
def test_lists_and_radiance_and_ambiguity(tmp_path, shape):
    solution, scene, library = run_of(shape, quantity="radiance", unique=False)
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


POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page_of(tmp_path, solution, scene, library, *, more=None, every=1, **options):
    write_results(tmp_path, solution, scene, endmembers=library, more=more)
    path = tmp_path / "report.html"
    write_run_report(path, read_results(tmp_path, every=every), thinned(scene, every), every=every, **options)
    return Page(path)


def words_of(page):
    return " ".join(" ".join(page.text).split())


def test_the_page_forbids_scripts_and_everything_from_outside(written):
    metas = [attributes for tag, attributes in written.elements if tag == "meta"]
    assert metas[0] == {"charset": "utf-8"}
    assert metas[1] == {"http-equiv": "Content-Security-Policy", "content": POLICY}
    assert written.source.index("Content-Security-Policy") < written.source.index("<title>")


def test_what_html_cannot_hold_is_marked(tmp_path):
    names = ("\x1b[31mred\x00", "\u202etfel", "\u2066a\u2069", "a\x9bb", "half \udcff", "x" * 10_000, "tab\there")
    sections = [Section(name, [name], tables=[Table((name,), [[name]], name)], points=[name]) for name in names]
    page = Page(write_page(tmp_path / "x.html", sections, title=names[0], command=names[4], tiles=[(names[1],) * 2]))
    assert_self_contained(page)
    assert not {c for c in page.source if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160}
    assert not set(page.source) & set("\u202e\u2066\u2069\udcff")
    assert "\N{REPLACEMENT CHARACTER}[31mred" in words_of(page)
    assert "tab here" in words_of(page)
    page = Page(write_page(tmp_path / "y.html", [Section("", tables=[Table(("a_<b>_c\x1b",), [["1"]])])], title=""))
    assert "a_<wbr>&lt;b&gt;_<wbr>c\N{REPLACEMENT CHARACTER}</th>" in page.source


def test_a_page_is_whole_or_not_there(tmp_path, monkeypatch):
    path = write_page(tmp_path / "x.html", [], title="first")

    def stop(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("unmix_jax.page.os.replace", stop)
    with pytest.raises(OSError, match="No space left"):
        write_page(path, [], title="second")
    assert "first" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("shape", [(20, 26), (40,)], ids=["image", "list"])
def test_a_thinned_scene_is_named_by_its_own_rows(tmp_path, monkeypatch, shape):
    solution, scene, library = run_of(shape, masked=0)
    seen = []
    fits = plots.fits
    monkeypatch.setattr(plots, "fits", lambda *args, **options: seen.append(fits(*args, **options)) or seen[-1])
    told = {}
    for name in ("residual_map", "gap_map"):
        draw = getattr(plots, name)
        monkeypatch.setattr(
            plots,
            name,
            lambda *args, name=name, draw=draw, **more: told.update({name: more["every"]}) or draw(*args, **more),
        )
    text = words_of(page_of(tmp_path, solution, scene, library, every=8))
    assert told == {"residual_map": 8, "gap_map": 8}
    residual = np.asarray(solution.residual)
    for axis in seen[0].axes[::2]:  # of each of the three: where it says that it is has the residual that it says
        where = axis.get_title("left").splitlines()[1]
        place = tuple(int(word.strip(",")) for word in where.split() if word.strip(",").isdigit())
        assert all(k % 8 == 0 for k in place)
        assert where.endswith(f"RMS {residual[place]:.2g}")
    one = "drawn from every 8th row and every 8th column" if len(shape) == 2 else "drawn from every 8th spectrum"
    assert one in text
    mean = np.asarray(solution.abundances).reshape(-1, 3)[:, 0].mean()
    assert f"Soil{mean:.3f}" in text.replace(" ", "")  # of all pixels
    assert "drawn from every" not in words_of(page_of(tmp_path / "whole", solution, scene, library))


def test_what_may_be_wrong_stands_first(tmp_path):
    solution, scene, library = run_of()
    notes = ["bands 1 and 2 hold no value; they are left out", "scale <differs> by 10 000!"]
    scene = replace(scene, notes=(notes[0], "no wavelength unit is given"))
    page = page_of(tmp_path, solution, scene, library, more={"notes": notes})
    text = words_of(page)
    assert text.index("Please check") < text.index("Abundances")
    assert text.count("Bands 1 and 2 hold no value; they are left out.") == 1
    assert "Scale <differs> by 10 000!" in text
    assert "No wavelength unit is given." in text
    assert ("section", {"class": "warns"}) in page.elements
    clean = replace(scene, notes=())
    assert "Please check" not in words_of(page_of(tmp_path / "clean", solution, clean, library))
    assert checks({}, clean) == []


def test_metadata_that_nobody_understood_are_listed(tmp_path):
    solution, scene, library = run_of()
    account = Account(used=("bands",), unknown=("mood <of> sensor", *(f"entry {i}" for i in range(99))))
    text = words_of(page_of(tmp_path, solution, replace(scene, account=account), library))
    assert "metadata not understood mood <of> sensor, entry 0," in text
    assert "and 40 more" in text
    assert "not understood" not in words_of(page_of(tmp_path / "clean", solution, scene, library))


@pytest.mark.parametrize("shape", [(5, 6), (7,)], ids=["image", "list"])
def test_captions_are_of_what_is_drawn(tmp_path, shape):
    solution, scene, library = run_of(shape)
    page = page_of(tmp_path, solution, scene, library)
    text = words_of(page)
    alts = " ".join(attributes["alt"] for tag, attributes in page.elements if tag == "img")
    for of_images in ("All maps share one scale", "asked pixels are blank", "each pixel", "Three pixels"):
        assert (of_images in alts) == (len(shape) == 2)
    for of_lists in ("Abundances of each spectrum", "Three spectra", "each spectrum"):
        assert (of_lists in alts) == (len(shape) == 1)
    assert ("29 pixels unmixed" if len(shape) == 2 else "6 spectra unmixed") in text


def test_unknown_quantities_are_values(tmp_path):
    solution, scene, library = run_of(quantity="value")
    text = words_of(page_of(tmp_path, solution, scene, library))
    assert "RMS residual (value)" in text
    assert "reflectance" not in text.split("How to read this")[0]


def test_the_tiles_say_what_is_certified(tmp_path):
    solution, scene, library = run_of()
    record = write_results(tmp_path, solution, scene, endmembers=library).record
    tiles = run_tiles(record)
    assert tiles[1:3] == [
        ("pixels, optimum reached", "29 (100 %)"), ("abundances and the optimum", "no bound on abundances"),
    ]  # fmt: skip
    uncertain = {**record, "gap": {"worst": None, "median": None}}
    assert run_tiles(uncertain)[1][0] == "pixels converged"
    assert run_tiles({**record, "network": {}})[1][0] == "pixels like the training"
    hostile = {**record, "scene": {**record["scene"], "quantity": "\x1b[2J" + "q" * 999}}
    assert max(len(label) for label, _ in run_tiles(hostile)) < 90
    assert "\x1b" not in str(run_tiles(hostile))


@pytest.mark.parametrize("shape", [(5, 6), (30,)])
def test_the_page_speaks_of_the_optimum_and_of_the_abundances(tmp_path, shape):
    """Of 29 pixels 19 are within the limit, 5 have a larger bound, and 5 none."""
    solution, scene, library = run_of(shape, bound=[2e-4, 1e-5, 0.03125, 1e-7, 1e-6, np.inf])
    page = page_of(tmp_path, solution, scene, library)
    text, one = words_of(page), "pixel" if len(shape) == 2 else "spectrum"
    many = "pixels" if one == "pixel" else "spectra"
    record = read_results(tmp_path).record
    assert run_tiles(record)[1:5] == [
        (f"{many}, optimum reached", "29 (100 %)"), (f"{many}, abundances within 0.001 of it", "19 (65.5 %)"),
        ("largest bound on abundances", "0.03125"), (f"{many} without a bound on abundances", "5"),
    ]  # fmt: skip
    for said in ("abundances within 0.001 of it", "depend on each other", "Certified is said of the optimisation only",
                 "5 of 29 pixels have no bound on abundances", "abundances are within so much of it"):  # fmt: skip
        assert said in text
    assert "no bound on abundances" not in text.replace("have no bound on abundances", "")
    alts = [attributes["alt"] for tag, attributes in page.elements if tag == "img"]
    (bound,) = [alt for alt in alts if alt.startswith("How far the abundances")]
    assert f"of each {one} can be from the optimum" in bound
    assert "Red: no bound" in bound


def test_networks_have_no_bound(tmp_path):
    solution, scene, library = run_of()
    solution = replace(solution, gap=jnp.full((5, 6), jnp.nan))
    text = words_of(page_of(tmp_path, solution, scene, library, more={"network": {}}))
    assert "no bound on abundances" in text
    assert "optimum reached" not in text


def test_maps_of_many_endmembers_come_in_sheets(tmp_path):
    names = tuple(f"m{i}" for i in range(45))
    page = page_of(tmp_path, *run_of((3, 4), names=names))
    alts = [attributes["alt"] for tag, attributes in page.elements if tag == "img"]
    assert [alt.partition(".")[0] for alt in alts if "of 45" in alt] == [
        "Endmembers 1 to 20 of 45", "Endmembers 21 to 40 of 45", "Endmembers 41 to 45 of 45",
    ]  # fmt: skip
    widths = [int(attributes["width"]) for tag, attributes in page.elements if tag == "img"]
    assert max(widths) < 972  # pixels inside a card, so that nothing is scaled down


def test_the_spectra_of_a_list_have_a_row_each(tmp_path):
    solution, scene, library = run_of((30,), names=tuple(f"m{i}" for i in range(15)))
    scene = replace(scene, pixel_names=tuple(f"probe <{i}>" for i in range(30)))
    page = page_of(tmp_path, solution, scene, library)
    text = words_of(page)
    assert "probe <0> – –" in text  # masked
    assert "probe <19>" in text
    assert "probe <20>" not in text
    assert "The first 20 of 30 spectra" in text
    assert "sum of 4 others" in text
