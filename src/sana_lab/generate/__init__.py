"""`sana-lab generate`: a few prompts in one batch (`few`), or a file of them over many processes (`many`).

One process::

    sana-lab generate --prompts prompts.txt --out pictures --batch 8

One process for each of two GPUs, by the module or by the installed script::

    accelerate launch --num_processes 2 -m sana_lab.cli generate --prompts prompts.txt --out pictures --batch 8
    accelerate launch --num_processes 2 $(which sana-lab) generate --prompts prompts.txt --out pictures --batch 8

On a machine with fewer than two GPUs accelerate 1.15 starts one process whatever `--num_processes` says, also with
`--cpu`; `--multi_gpu` makes it start them all, each with a virtual GPU of its own, or sharing the real one. `torchrun
--nproc_per_node 2 -m sana_lab.cli generate ...` does the same. Several machines: the same command on each, with
`--num_machines`, `--machine_rank`, `--main_process_ip` and `--main_process_port`, or what `accelerate config` asked
for, and a folder of pictures that all of them see.

When one process fails, the launcher ends the others; what they have drawn stays, and the same command goes on.
`scaling` records how much faster several GPUs are. Importing this package imports no torch.
"""
