"""Tensors on partitions of ranks, after Hewett and Grady: broadcast, sum-reduce, scatter, gather, repartition."""
