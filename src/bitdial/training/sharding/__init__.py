"""Weights in shards: every process holds a part of each weight, of its gradient and of the optimizer's state."""

from bitdial.training.sharding.run import check_shardable, in_shards
from bitdial.training.sharding.sharded_model import gathered, is_sharded, whole, whole_weights

__all__ = ["check_shardable", "gathered", "in_shards", "is_sharded", "whole", "whole_weights"]
