"""``python -m service`` is ``infra-health``."""

from service.cli import main

if __name__ == "__main__":
    main()
