"""`python -m iqa_armor`: the command line."""

from iqa_armor.cli import main

if __name__ == "__main__":
    main()
