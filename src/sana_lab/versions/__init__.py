"""Library versions: stacks of pins, probes that ask what each does, the matrix of both, and the doctor.

`stacks` and `probes` say what is measured, `environment`, `runner` and `worker` measure it, `record` keeps it, `matrix`
judges and shows it, `bisect` finds the release where an outcome changed, `doctor` looks at your own environment.
"""
