"""``python -m metalr`` is the command ``metalr``."""

from metalr.cli import main

if __name__ == "__main__":
    main()
