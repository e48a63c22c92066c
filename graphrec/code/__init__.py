"""Recommendations for software repositories: files, reviewers and experts, from git histories."""
