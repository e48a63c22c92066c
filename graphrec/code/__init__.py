"""For the person in a repository: which files next, who should look at a change, who knows a place."""
