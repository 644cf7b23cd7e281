"""Truth values and lists of names in any type, and models that stand for others on GPUs that need not exist."""

import numpy as np
import pytest
import torch

from sana_lab.exercises import NotYet, answers
from sana_lab.exercises.standins import Model


@pytest.mark.parametrize("value", [True, np.True_, np.array([True]), torch.tensor(True), torch.tensor([[True]])])
def test_a_truth_value_is_one_in_any_type(value):
    assert answers.truth(value) is True


@pytest.mark.parametrize("value", [None, 1, 0.0, "True", [True], torch.tensor(1), torch.tensor([True, False])])
def test_what_is_no_truth_value_is_said_to_be_none(value):
    with pytest.raises(NotYet, match="return True or False; this is"):
        answers.truth(value)


@pytest.mark.parametrize(
    "value", [["a", "b"], ("a", "b"), iter(["a", "b"]), {"a": 1, "b": 2}.keys(), np.array(["a", "b"])]
)
def test_names_may_come_in_any_kind_of_list(value):
    assert answers.names(value) == ["a", "b"]


@pytest.mark.parametrize("value", [None, "ab", b"ab", {"a": 1}, {"a"}, ["a", None], [["a"]], 3])
def test_what_is_no_list_of_names_is_refused(value):
    with pytest.raises(NotYet, match="return a list of names"):
        answers.names(value)


def test_a_set_will_do_where_order_does_not_count():
    assert answers.names({"a"}, ordered=False) == ["a"]


def test_tensors_that_stand_for_others_are_said_to_be_elsewhere_and_can_be_watched():
    model = Model(("cuda:1", "cpu", "cuda:10"), ("meta", "cuda:1", "cuda:0"))
    held = {str(t.device) for t in [*model.parameters(), *model.buffers()]}
    assert held == {"cuda:1", "cpu", "cuda:10", "meta", "cuda:0"}
    assert {name: str(t.device) for name, t in model.state_dict().items()}["block.1.mean"] == "cuda:1"
    assert [t.get_device() for t in model.buffers()] == [-1, 10, 1, 0]
    assert isinstance(model.block[0].weight, torch.nn.Parameter) and model.block[0].weight.is_cuda
    assert answers.ask(lambda model: model.device, model) == torch.device("cuda:1")

    def spoil(model):
        model.block[0].weight.data.zero_()

    with pytest.raises(NotYet, match=r"changes `block\.0\.weight` of `model`"):
        answers.ask(spoil, model)
