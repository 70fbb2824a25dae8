"""What faces the machine: files, downloads, HDF5, devices, memory."""
