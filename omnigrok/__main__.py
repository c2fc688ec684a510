"""``python -m omnigrok``: the same as the command ``omnigrok``."""

from omnigrok.cli import main

if __name__ == "__main__":
    main()
