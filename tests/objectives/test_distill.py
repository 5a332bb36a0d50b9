"""Learning from a teacher's probabilities."""

import pytest
import torch
import torch.nn.functional as F

from gramian.objectives.distill import soft_cross_entropy


def test_a_certain_teacher_is_a_label_and_the_teacher_gets_no_gradient():
    student = torch.randn(4, 3, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.randint(7, (4, 3), generator=torch.Generator().manual_seed(1))
    teacher = (1e4 * F.one_hot(labels, 7).float()).requires_grad_()
    loss = soft_cross_entropy(student, teacher)
    torch.testing.assert_close(loss, F.cross_entropy(student.flatten(0, 1), labels.flatten()))
    loss.backward()
    assert teacher.grad is None


def test_gradients_and_sizes():
    student, teacher = (torch.randn(2, 5, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda s: soft_cross_entropy(s, teacher), (student.requires_grad_(),))
    with pytest.raises(ValueError, match="5 tokens and the teacher 4"):
        soft_cross_entropy(student, teacher[:, :4])
