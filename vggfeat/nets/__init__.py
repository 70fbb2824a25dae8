"""The nets: Table 1 as data, modules, weights and their formats."""
