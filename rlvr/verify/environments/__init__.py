"""What replies to the policy between the turns of a conversation."""
