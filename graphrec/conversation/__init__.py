"""Conversational recommendation: what an agent knows, whom it talks to, how it decides, how well it does."""
