"""A seed says what happens to which job, whatever the machine's timing."""

from worker.verify.lots import Dose, draw
from worker.verify.readers import Way

DOSE = Dose(cancels=0.3, upstream_faults=0.3, continues=0.3)


def test_the_same_seed_draws_the_same_lots_in_any_order() -> None:
    forwards = [draw(7, number, DOSE) for number in range(50)]
    backwards = [draw(7, number, DOSE) for number in reversed(range(50))]
    assert forwards == backwards[::-1]
    assert forwards != [draw(8, number, DOSE) for number in range(50)]


def test_all_that_can_happen_is_drawn() -> None:
    lots = [draw(7, number, DOSE) for number in range(500)]
    assert {way for lot in lots for way in lot.beside} == set(Way)
    assert {fault for lot in lots for fault in lot.plan.faults} == {"hang", "cut", "429", "500", ""}
    assert {lot.on_retry for lot in lots} == {"restart", "continue"}
    assert 100 < sum(lot.cancel_after is not None for lot in lots) < 200


def test_a_dose_of_nothing_does_nothing_to_the_jobs() -> None:
    lots = [draw(7, number, Dose()) for number in range(100)]
    assert {(lot.plan.faults, lot.on_retry, lot.cancel_after) for lot in lots} == {((), "restart", None)}
