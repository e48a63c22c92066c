"""The commands of ``graphrec``, one file a group; :mod:`graphrec.cli` assembles them.

Whatever is slow to import is imported inside the commands, so that ``--help`` answers at once.
"""
