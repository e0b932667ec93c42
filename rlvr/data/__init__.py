"""Reading and checking data sets, prompt templates, and the resumable stream of prompts."""
