import pytest

from dashboards.__main__ import stale


@pytest.mark.generated
def test_generated_dashboards_and_rules_are_fresh():
    assert stale() == [], "run `python -m dashboards`"
