"""The one loop: optimizer, schedule, checkpoints and journal around a method."""

from allophone.train.config import TrainConfig
from allophone.train.loop import TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "train"]
