import pytest

from callbox import Allow, Ask, Deny, Tool
from callbox.policy.policy import EffectPolicy, FunctionPolicy, Question, Strictest


def question(effect="read"):
    return Question(Tool("t", "A tool.", {"type": "object", "properties": {}}, effect=effect), {})


def test_an_effect_that_is_not_named_is_denied():
    policy = EffectPolicy({"read": Allow(), "write": Ask("Changes data.")})
    assert policy.decide(question("read")) == Allow()
    assert policy.decide(question("write")) == Ask("Changes data.")
    assert isinstance(policy.decide(question("destructive")), Deny)


@pytest.mark.parametrize("answer", [None, True, "allow", Allow])
def test_a_function_that_gives_no_decision_denies(answer):
    assert isinstance(FunctionPolicy(lambda _: answer).decide(question()), Deny)


@pytest.mark.parametrize(
    ("decisions", "expected"),
    [
        ([], Allow()),
        ([Allow(), Allow()], Allow()),
        ([Allow(), Ask("a"), Allow()], Ask("a")),
        ([Ask("a"), Deny("d")], Deny("d")),
        ([Deny("d"), Ask("a")], Deny("d")),
    ],
)
def test_the_strictest_decision_wins(decisions, expected):
    policies = tuple(FunctionPolicy(lambda _, decision=decision: decision) for decision in decisions)
    assert Strictest(policies).decide(question()) == expected
