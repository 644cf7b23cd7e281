"""Bytes and times of checkpoints at real size, method by method, each in a process of its own: `sana-lab measure`.

`methods` says what is compared, `worker` measures one, `runner` all of them and writes the record. Chapters 7 to 9.
"""
