"""Two ways of drawing the same pictures, held side by side: how far they are apart, and a sheet to look at.

`scores` has the four measures and their intervals, `learned` the two that need a network's weights, `sheet` the
pictures beside each other.
"""
