"""How often does a quantized Sana still draw what it was asked for? A paired experiment on the Shapes model.

The same scenes from the same noise are drawn under every condition and read back. `conditions` says what is changed,
`distance` how far two pictures are apart, `runner` draws and reads, `statistics` counts and keeps the record, `cli` is
`sana-lab evaluate`. Chapter 6.
"""
