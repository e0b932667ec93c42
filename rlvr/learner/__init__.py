"""The learner: packing, scoring, credit, the exact sharded update, and the Ray actors around it."""
