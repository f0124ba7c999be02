"""``python -m callbox``: the command line, where the script is not on the path."""

from callbox.cli.main import app

if __name__ == "__main__":
    app(prog_name="callbox")
