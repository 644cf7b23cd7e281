from sana_lab.advice.recipe import SMALL, attempt, places, recipe

pipe = recipe(device_map="balanced")
print(places(pipe))
raised = attempt(pipe, "a small red star", **SMALL)
print(raised or "draws")
holds = not raised and set(places(pipe).values()) == {"cuda:0"}
