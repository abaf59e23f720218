"""The networks have the sizes that the papers print."""

import torch

from impsamp.problems.networks import PaperCNN, mnist_mlp


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def test_the_first_papers_network():
    "Appendix F: 28 - 4 - 4 = 20 and 10 x 20 x 20 = 4000 inputs of the first linear layer."
    net = PaperCNN()
    log_p = net(torch.zeros(3, 1, 28, 28))
    assert log_p.shape == (3, 2)
    assert torch.allclose(log_p.exp().sum(dim=1), torch.ones(3))
    convolutions = (5 * 25 + 5) + (10 * 5 * 25 + 10)
    assert parameters(net) == convolutions + (4000 * 100 + 100) + (100 * 2 + 2)


def test_the_perceptron():
    net = mnist_mlp()
    assert net(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
    assert parameters(net) == (784 * 256 + 256) + (256 * 256 + 256) + (256 * 10 + 10)
