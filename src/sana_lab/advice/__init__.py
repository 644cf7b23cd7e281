"""The usual advice on 8-bit Sana, each piece with its source, a verdict, and the check that decides it.

`entry` says what a piece of advice is, `rows` lists them, `scripts/` holds the checks that run here, `records` those
that read a record, `runner` runs either and computes the verdict, `page` makes `book/advice.md`.
"""
