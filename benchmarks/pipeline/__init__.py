"""Divided graphs beside torch.distributed.pipelining, on the same cuts: ``python -m benchmarks.pipeline``"""
