"""What fits my card: the ways down in memory, each as code, with the peak it has and how well that is known.

`ways` are the ways, `moving` lets an 8-bit model be offloaded for good, `dry` runs a checkpoint without weights and
counts, `peaks` says from that what each way needs in each stage, `planner` chooses for a card (`sana_lab.plan`,
`sana-lab plan`), and `cards` compares all of it with a real GPU. Chapter 9.
"""
