"""The machine: files, downloads, HDF5, devices, memory."""
