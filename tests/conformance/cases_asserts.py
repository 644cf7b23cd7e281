"""Indices out of range: on a GPU the kernel finds them, and the process's CUDA is lost."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .registry import case, seen


def ids(*values):
    """Whole numbers on the GPU."""
    return torch.tensor(values, device="cuda")


def done(result):
    """Wait: a kernel's failure shows at the next synchronization."""
    torch.cuda.synchronize()
    return seen(result)


def table():
    """Ones, (4, 4), on the GPU."""
    return torch.ones(4, 4, device="cuda")


@case()
def assert_embedding():
    """A token id beyond the table."""
    return done(torch.nn.Embedding(4, 4).cuda()(ids(9)))


@case()
def assert_embedding_negative():
    """A negative token id."""
    return done(F.embedding(ids(-1), table()))


@case()
def assert_embedding_bag():
    """A bag with an id beyond the table."""
    return done(F.embedding_bag(ids(1, 9), table(), ids(0)))


@case()
def assert_index_select():
    """`index_select` beyond the end."""
    return done(torch.index_select(table(), 0, ids(9)))


@case()
def assert_gather():
    """`gather` beyond the end."""
    return done(torch.gather(table(), 1, ids(9).view(1, 1)))


@case()
def assert_scatter():
    """`scatter_` beyond the end."""
    return done(table().scatter_(1, ids(9).view(1, 1), 1.0))


@case()
def assert_scatter_add():
    """`scatter_add` beyond the end."""
    return done(table().scatter_add(1, ids(9).view(1, 1), torch.ones(1, 1, device="cuda")))


@case()
def assert_index():
    """`x[indices]` beyond the end."""
    return done(table()[ids(9)])


@case()
def assert_index_from_cpu():
    """`x[indices]` with the indices on the CPU."""
    return done(table()[torch.tensor([9])])


@case()
def assert_index_list():
    """`x[[9]]`, a list."""
    return done(table()[[9]])


@case()
def assert_index_number():
    """`x[9]`, a number: Python's own error."""
    return done(table()[9])


@case()
def assert_index_write():
    """`x[indices] = value` beyond the end."""
    x = table()
    x[ids(9)] = 1.0
    return done(x)


@case()
def assert_index_add():
    """`index_add` beyond the end."""
    return done(table().index_add(0, ids(9), torch.ones(1, 4, device="cuda")))


@case()
def assert_index_copy():
    """`index_copy` beyond the end."""
    return done(table().index_copy(0, ids(9), torch.ones(1, 4, device="cuda")))


@case()
def assert_index_fill():
    """`index_fill` beyond the end."""
    return done(table().index_fill(0, ids(9), 1.0))


@case()
def assert_take():
    """`take` beyond the end."""
    return done(torch.take(table(), ids(99)))


@case()
def assert_put():
    """`put` beyond the end."""
    return done(table().put(ids(99), torch.ones(1, device="cuda")))


@case()
def assert_cross_entropy():
    """A class that is not there."""
    return done(F.cross_entropy(table(), ids(0, 1, 2, 9)))


@case()
def assert_nll_loss():
    """The same for `nll_loss` of pictures."""
    return done(F.nll_loss(torch.ones(1, 4, 2, 2, device="cuda"), torch.full((1, 2, 2), 9, device="cuda")))


@case()
def assert_one_hot():
    """A class beyond `num_classes`."""
    return done(F.one_hot(ids(9), 4))


@case()
def assert_one_hot_negative():
    """A negative class."""
    return done(F.one_hot(ids(-1), 4))


@case()
def assert_binary_cross_entropy():
    """A probability above 1."""
    return done(F.binary_cross_entropy(torch.full((2,), 2.0, device="cuda"), torch.ones(2, device="cuda")))


@case()
def assert_multinomial():
    """A negative probability."""
    return done(torch.multinomial(torch.tensor([0.5, -1.0], device="cuda"), 1))


@case()
def assert_multinomial_nan():
    """A probability that is no number: what sampling meets when a model in 16 bits overflows."""
    return done(torch.multinomial(torch.tensor([0.5, float("nan")], device="cuda"), 1))


@case()
def assert_multinomial_zero():
    """No probability at all."""
    return done(torch.multinomial(torch.zeros(2, device="cuda"), 1))


@case()
def assert_bernoulli():
    """A probability above 1."""
    return done(torch.bernoulli(torch.full((2,), 2.0, device="cuda")))


@case()
def assert_repeat_interleave():
    """A negative count."""
    return done(torch.repeat_interleave(ids(1, 2), ids(-1, 2)))


@case()
def assert_bincount():
    """A negative number: the host looks first."""
    return done(torch.bincount(ids(-1, 2)))


@case()
def assert_async():
    """PyTorch's own assertion."""
    torch._assert_async(torch.tensor(False, device="cuda"))
    return done(table())


@case()
def assert_division():
    """Whole numbers divided by zero."""
    return done(ids(1, 2) // ids(0, 1))


@case()
def assert_position_ids():
    """A text longer than the table of positions."""
    return done(torch.nn.Embedding(4, 8).cuda()(torch.arange(6, device="cuda")[None]))


@case()
def assert_unused():
    """An id out of range on the CPU: no GPU, no assertion."""
    return seen(torch.nn.Embedding(4, 4)(torch.tensor([9])))
