"""`python -m siamscope`, as torchrun starts it."""

from siamscope.cli import main

if __name__ == "__main__":
    main()
