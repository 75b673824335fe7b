"""Products of imaging spectrometers and multispectral sensors, in their own layouts."""
