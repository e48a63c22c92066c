"""``python -m graphrec`` is ``graphrec``."""

from graphrec.cli.main import main

if __name__ == "__main__":
    main()
