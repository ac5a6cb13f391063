"""That PyTorch's arrangements of a step compute the same: the role `check` of `torch_side.py`."""

import time

import blip
import torch
import torch_best


def check(made, arrangements):
    """All `arrangements`, each with the attention that it is tried with, compute the same as the first, with given negatives and
    without dropout; so does a compiled step, which may round."""
    s, other = made.make_step(), made.make_step()
    s.drop.rate = other.drop.rate = 0.0
    reference = arrangements[0][0]
    with torch.device(made.device):
        negatives, expected = check_arrangements(s, arrangements)
    print("the arrangements agree", flush=True)
    best = torch_best.Best(other, made.dtype)
    before, began = joined(s.params.values()), time.perf_counter()
    check_gradients(best, best.work(negatives), expected)
    print(f"compiled in {time.perf_counter() - began:.1f} s", flush=True)
    best.work(negatives)
    with torch.device(made.device):
        for _ in range(2):
            s.step(lambda s: reference(s, negatives))
    moved = apart(joined(s.params.values()) - before, joined(best.params.values()) - before)
    kept = apart(joined([*s.averages, *s.queues.values()]), joined([*best.averages, *(queue.T for queue in best.queues)]))
    # AdamW moves by a gradient's sign at first, also where there is nothing but rounding.
    assert kept < bar_of(best) and (moved < 0.05 or best.dtype != torch.float32), f"two compiled steps: moves {moved}, averages and queues {kept} apart"
    print(f"two compiled steps agree: moves {moved:.1e}, averages and queues {kept:.1e}")


def check_arrangements(s, arrangements):
    """Negatives, and the gradients and losses that all arrangements of a step give."""
    b = len(s.texts)
    negatives = (torch.arange(b) + 1) % b, (torch.arange(b) + 2) % b
    found = []
    for arrangement, attention in arrangements:
        blip.attention = attention
        losses, _ = arrangement(s, negatives)
        found.append([*torch.autograd.grad(sum(losses), list(s.params.values())), torch.stack(losses)])
    for i, name in enumerate([*s.params, "losses"]):
        for gradients in found[1:]:
            worst = apart(found[0][i], gradients[i])
            assert worst < 1e-3, f"{name}: the arrangements differ by {worst}"
    return negatives, found[0]


def bar_of(best):
    return 1e-3 if best.dtype == torch.float32 else 5e-2


def check_gradients(best, losses, expected):
    """A compiled step gave the losses and gradients `expected`."""
    losses = apart(expected[-1], losses)
    gradients = [value.grad for value in best.params.values()]
    worst = {"all": apart(joined(expected[:-1]), joined(gradients))}
    if best.dtype == torch.float32:
        worst.update((name, apart(a, b)) for name, a, b in zip(best.params, expected, gradients))
    name = max(worst, key=worst.get)
    assert losses < bar_of(best) and worst[name] < bar_of(best), f"compiled: losses {losses}, the gradient of {name} {worst[name]} apart"
    print(f"the compiled step agrees: losses {losses:.1e}, gradients {worst['all']:.1e}, {name} {worst[name]:.1e}")


def apart(a, b):
    return float((a - b).detach().norm() / (a.detach().norm() + 1e-3))


def joined(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])
