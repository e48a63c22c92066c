"""``python -m graphrec`` is ``graphrec``."""

from graphrec.cli import main

if __name__ == "__main__":
    main()
