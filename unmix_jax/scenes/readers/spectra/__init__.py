"""Libraries of laboratories and field spectrometers, one file for each format."""
