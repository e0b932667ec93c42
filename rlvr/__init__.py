"""rlvr: distributed RLVR training in which token credit assignment is a stage of its own."""
