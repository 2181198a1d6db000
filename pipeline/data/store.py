"""Former names of `pipeline.data.dataset`."""

from pipeline.data.dataset import Starts, TaskDataset

__all__ = ["Starts", "Store"]

Store = TaskDataset
