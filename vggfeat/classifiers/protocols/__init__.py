"""The benchmarks' protocols: which rows train and test, the choice of C, late fusion."""
