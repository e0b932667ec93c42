"""What keeps a machine from running rlvr, and the command that mends it."""
