import pytest
import torch

from gramian.data.synthetic.prompts.indirect_object import NAMES, indirect_object_prompts


class Words:
    """A tokenizer of words."""

    def __init__(self, cut=""):
        self.table, self.cut = {}, cut

    def __call__(self, text, add_special_tokens=True):
        if text == self.cut:
            return type("Encoding", (), {"input_ids": [0, 0]})()
        words = text.replace(",", " ,").split()
        return type("Encoding", (), {"input_ids": [self.table.setdefault(w, 1 + len(self.table)) for w in words]})()


def test_the_two_prompts_of_a_pair_differ_in_who_gives():
    read = Words()
    found = indirect_object_prompts(read, 20, torch.Generator().manual_seed(0))
    word = {number: name for name, number in read.table.items()}
    for base, source, first, second in zip(*found, strict=True):
        changed = (base != source).nonzero().flatten().tolist()
        assert len(changed) == 1
        names = [word[int(i)] for i in base if " " + word[int(i)] in NAMES]
        assert names == [word[int(first)], word[int(second)], word[int(second)]]
        assert source[changed[0]] == first
    again = indirect_object_prompts(Words(), 20, torch.Generator().manual_seed(0))
    assert torch.equal(again.base, found.base)


def test_no_pairs_and_a_tokenizer_that_cuts_names_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        indirect_object_prompts(Words(), 0)
    with pytest.raises(ValueError, match="cuts the names"):
        indirect_object_prompts(Words(cut=" Mary"), 3)
