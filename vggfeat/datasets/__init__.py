"""What lies on disk, as samples: one file a data set, and the registry of their names."""

from vggfeat.datasets.sample import Dataset, Sample

__all__ = ["Dataset", "Sample"]
