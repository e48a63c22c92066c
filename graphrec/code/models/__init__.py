"""Models of git histories: who will work on which file."""
