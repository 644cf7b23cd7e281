from sana_lab.advice.recipe import attempt, recipe

pipe = recipe(device_map="cuda")
raised = {}
for name in ("text_encoder", "transformer"):
    model = getattr(pipe, name)
    raised[name] = attempt(model.to, "cpu")
    print(f"{name}.to('cpu'): {raised[name] or model.device}")
holds = all(raised.values())
