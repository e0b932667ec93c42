"""Pure tensor mathematics: advantages, objectives, credit assignment, off-policy correction."""
