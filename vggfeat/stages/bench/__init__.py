"""Measuring this machine: extraction, training and SVM fits."""
