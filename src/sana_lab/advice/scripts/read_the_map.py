from sana_lab.advice.recipe import places, recipe

pipe = recipe(device_map="balanced")  # on two GPUs
plan = {name: f"cuda:{device}" for name, device in pipe.hf_device_map.items()}
for name, where in places(pipe).items():
    print(f"{name:12} map {plan[name]}, weights on {where}")
holds = plan == places(pipe)
