"""`python -m sana_lab.evaluate`: what `sana-lab evaluate` is, also where typer is missing."""

from .cli import run

if __name__ == "__main__":  # reading processes import this module again
    run("python -m sana_lab.evaluate")
