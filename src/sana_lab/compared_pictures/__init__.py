"""Two ways of drawing the same pictures, held side by side: how far they are apart, and a sheet to look at.

`scores` has the four measures and their intervals, `learned` the two that need a network's weights, `sheet` the
pictures beside each other. `ways` loads a pipeline by any name that the book has for one, `drawn` draws a file of
prompts in two of them, `folders` takes pictures that are there, `page` writes what was found, and `cli` is
`sana-lab compare`.
"""
