import threading

import accelerate
import torch

second_is_in, first_is_out = threading.Event(), threading.Event()


def second():
    with accelerate.init_empty_weights():
        second_is_in.set()
        first_is_out.wait()


thread = threading.Thread(target=second)
with accelerate.init_empty_weights():  # as `from_pretrained` does while it builds a model
    thread.start()
    second_is_in.wait()
first_is_out.set()
thread.join()
layer = torch.nn.Linear(2, 2)
print("both are done, and a new layer is on", layer.weight.device)
assert layer.weight.device.type == "cpu", "register_parameter is still replaced"
