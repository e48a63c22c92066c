"""Models of conversations: the scorer of items and attributes, and the policy that asks or recommends."""
