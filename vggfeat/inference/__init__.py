"""Running nets over pictures: dense and batched, to descriptors, posteriors or boxes."""
