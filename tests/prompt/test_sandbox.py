"""The limit of the blocks that a template enters, and the encoding of values."""

import pytest

from dragoman.prompt.sandbox import SandboxedTemplate, TemplateError, TooManySteps


def test_a_template_may_enter_as_many_blocks_as_allowed_each_time() -> None:
    template = SandboxedTemplate("{% for i in range(n) %}{{ i }}{% endfor %}", max_steps=11)
    for _ in range(2):
        assert template.render({"n": 10}) == "0123456789"
    with pytest.raises(TooManySteps, match="it enters more than 11 blocks"):
        template.render({"n": 1000})
    assert template.render({"n": 1}) == "0"


@pytest.mark.parametrize(
    "source",
    [
        "{% for x in range(999) %}{% for y in range(999) %}{% endfor %}{% endfor %}",
        "{% macro twice(n) %}{% if n %}{{ twice(n - 1) }}{{ twice(n - 1) }}{% endif %}{% endmacro %}{{ twice(40) }}",
        "{% for x in [[[[]] * 20] * 20] * 20 recursive %}{{ loop(x) }}{% endfor %}",
        "{% for x in range(99999) if x < 0 %}{% endfor %}" * 9,
    ],
)
def test_no_kind_of_loop_evades_the_limit(source: str) -> None:
    with pytest.raises(TooManySteps):
        SandboxedTemplate(source, max_steps=1000).render({})


def test_what_a_filter_yields_is_encoded_as_a_list() -> None:
    source = "{{ tools | map(attribute='name') | tojson }}{{ [tools | map(attribute='name')] | tojson }}"
    assert SandboxedTemplate(source).render({"tools": [{"name": "a"}, {"name": "b"}]}) == '["a", "b"][["a", "b"]]'
    with pytest.raises(TemplateError, match="Object of type Namespace is not JSON serializable"):
        SandboxedTemplate("{{ namespace(a=1) | tojson }}").render({})


def test_without_a_limit_every_block_is_entered() -> None:
    assert len(SandboxedTemplate("{% for i in range(99999) %}a{% endfor %}").render({})) == 99_999
