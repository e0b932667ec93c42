"""How a policy version travels from DeepSpeed's shards into the running vLLM engines."""
