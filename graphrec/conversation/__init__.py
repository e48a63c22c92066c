"""Conversational recommendation: agents, policies, simulated users and their evaluation."""
