"""``python -m tynda`` is the command ``tynda``."""

from tynda.cli import main

if __name__ == "__main__":  # a process that training starts imports this again
    main(prog_name="tynda")
