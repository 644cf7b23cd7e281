"""Faults in libraries that this book found: a script for each, and the report one would file.

`faults` says what is wrong and where, `scripts/` holds the programs that show it, `runner` runs one, `page` makes
`book/upstream.md`.
"""
