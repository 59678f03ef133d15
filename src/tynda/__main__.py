"""Entry point: ``python -m tynda`` runs the command ``tynda``."""

import sys


def main() -> None:
    """Run the command; an interrupt ends it quietly, even while modules are imported."""
    try:
        from tynda.cli import main

        main(prog_name="tynda")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":  # worker processes of training import this module again
    main()
