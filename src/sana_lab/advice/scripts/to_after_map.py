from sana_lab.advice.recipe import attempt, recipe
from sana_lab.versions.matrix import matrix

raised = attempt(recipe(device_map="balanced").to, "cuda")
print(raised or "moved")
same = [
    names
    for names, _, outcome in matrix().row("move-mapped")
    if "device mapping strategy" in outcome
]
facts = {"stacks": sum(map(len, same))}
holds = not raised
