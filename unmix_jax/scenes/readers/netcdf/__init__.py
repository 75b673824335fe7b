"""NetCDF and HDF5: safe access to the file, and what its variables and attributes mean."""
