"""Sampling: the vLLM engine, the Ray actor around it, and the pool that routes requests."""
