"""Weights in shards: every process holds a part of each weight, of its gradient and of the optimizer's state."""

from bitdial.training.sharding.checks import check_shardable
from bitdial.training.sharding.gathering import gathered, is_sharded, whole, whole_weights
from bitdial.training.sharding.run import in_shards

__all__ = ["check_shardable", "gathered", "in_shards", "is_sharded", "whole", "whole_weights"]
