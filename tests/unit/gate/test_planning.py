from callbox.gate.planning import plan
from callbox.tools.tool import Tool


def make(effect):
    return Tool("t", "A tool.", {"type": "object", "properties": {}}, effect=effect)


READ, WRITE, DESTROY, EGRESS = make("read"), make("write"), make("destructive"), make("egress")


def test_reads_form_one_group():
    assert plan([READ, READ, READ]) == [[0, 1, 2]]


def test_every_write_is_alone_and_in_order():
    assert plan([WRITE, DESTROY, EGRESS]) == [[0], [1], [2]]


def test_a_write_is_a_barrier_between_reads():
    assert plan([READ, WRITE, READ, READ, WRITE]) == [[0], [1], [2, 3], [4]]


def test_answered_calls_belong_to_no_group_and_split_none():
    assert plan([READ, None, READ, None]) == [[0, 2]]
    assert plan([]) == []
