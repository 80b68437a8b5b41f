"""``python -m hpctrain``."""

if __name__ == "__main__":
    # Processes that Python starts for itself import this file once more; they need no command line.
    from hpctrain.cli import main

    main()
