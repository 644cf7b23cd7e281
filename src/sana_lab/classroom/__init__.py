"""For a class: chapters without solutions, what a learner has passed, and marks for all.

`tasks` finds the exercises of a chapter. `edition` makes notebooks for learners, and for nbgrader: `sana-lab learner`.
`progress` reads what stored notebooks say; `grading` believes none of it and has `worker` run them, each in a process
of its own: `sana-lab progress` and `sana-lab grade`. `cli` has the commands.
"""
