"""What the command says of itself."""

__all__ = ["EXAMPLES", "HELP"]

HELP = """usage: unmix-jax COMMAND [options]

Hyperspectral unmixing: which materials are in each pixel, and how much of each.

  demo         unmix real data that come with the package; ends with a report to open
  info         what is in a scene or a spectral library
  endmembers   find the pure spectra of a scene, and how many there are
  fit          mineral spectra as oscillators: parameters of the dispersion model for a library
  train        networks for a sensor from pure spectra alone
  unmix        abundance maps, residual, certificate and a report
  score        compare results with a reference

Start with:
  unmix-jax demo
  unmix-jax info scene.hdr
  unmix-jax unmix scene.hdr --count 5
  unmix-jax unmix scene.hdr --endmembers library.sli --out results
  unmix-jax unmix scene.hdr --endmembers 4 --method recommended
  unmix-jax fit minerals.csv --out minerals-fit
  unmix-jax train minerals.sli --sensor scene.hdr --out minerals.npz
  unmix-jax unmix scene.hdr --method minerals.npz

A scene is a file (ENVI, GeoTIFF, NetCDF, HDF5, .mat, .npz, .npy, Zarr, PDS, ISIS or a sensor's product),
a list of spectra (.csv, .sli), or the name of a dataset, such as indian_pines.
`unmix-jax COMMAND --help` lists the options of a command. Everywhere, --debug shows the traceback of an
error, and --version the version."""
EXAMPLES = {
    "demo": "unmix-jax demo --out my-demo",
    "info": "unmix-jax info scene.hdr\n  unmix-jax info foreign.mat --key cube=Y --key wavelength_nm=lambda",
    "endmembers": "unmix-jax endmembers scene.hdr --out endmembers.sli\n"
    "  unmix-jax endmembers scene.hdr --method nfindr --count 6 --out endmembers.csv",
    "fit": "unmix-jax fit minerals.csv --out minerals-fit\n"
    "  unmix-jax fit minerals.sli --range 400 1400 --names Quartz Calcite --out two\n"
    "  unmix-jax fit spectra.csv --quantity reflectance --unit cm-1 --axes 1",
    "train": "unmix-jax train minerals.sli --sensor scene.hdr --out minerals.npz\n"
    "  unmix-jax train minerals.sli --names Calcite Kaolinite --recipe powders --snr 30 --out two.npz",
    "unmix": "unmix-jax unmix scene.hdr --count 5\n"
    "  unmix-jax unmix scene.hdr --endmembers library.sli --out results\n"
    "  unmix-jax unmix scene.hdr --endmembers 4 --method recommended\n"
    "  unmix-jax unmix scene.hdr --method minerals.npz\n"
    "  unmix-jax unmix scene.hdr --endmembers minerals.csv --shade shade --baseline 2\n"
    "  srun unmix-jax unmix flightline.hdr --endmembers library.sli --distributed",
    "score": "unmix-jax score unmix-results samson/alt",
}
