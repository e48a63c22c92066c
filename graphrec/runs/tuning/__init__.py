"""Tuning: trials with equal budgets, selected on validation, resumable."""
