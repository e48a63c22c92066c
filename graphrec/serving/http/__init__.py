"""Recommendations over HTTP: the service, its journal of added items, and what guards both."""
