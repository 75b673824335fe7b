"""Which spectra are pure? Noise, subspace, extraction."""
