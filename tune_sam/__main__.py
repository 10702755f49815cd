"""The command line, as `python -m tune_sam`."""

from tune_sam.cli.main import main

if __name__ == "__main__":
    main()
