"""What a run shows and leaves behind: metrics, responses, progress, wandb, and the report."""
