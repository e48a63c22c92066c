"""What every other part stands on: errors, options, seeds, files, the bundle format, processes, top-k."""
