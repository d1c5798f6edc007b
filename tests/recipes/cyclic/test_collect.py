from datetime import datetime

from bitdial.evaluation import describe_machine
from bitdial.recipes.cyclic.results import collect_results
from tests.evaluation.fabricate import arms_of, fabricate


def test_cycles_are_analysed_for_each_arm_and_seed_that_cycled():
    results = fabricate(seeds=2, iterations=60)
    assert [(item.arm, item.seed) for item in results.cycles] == [
        ("cpt", 0),
        ("cpt", 1),
        ("ablation_random_cycling", 0),
        ("ablation_random_cycling", 1),
    ]
    assert collect_results(results.arms, config={}, analyze_cycles=False).cycles == []


def test_notes_tell_of_seeds_and_of_simulation():
    one = collect_results(arms_of("a", [0.9]), config={}, notes=["mine"]).notes
    assert one[0].startswith("One seed: no interval.")
    assert any("BitOps are simulated" in note for note in one)
    assert one[-1] == "mine"
    uneven = collect_results(arms_of("a", [0.9, 0.8, 0.7]) + arms_of("b", [0.9]), config={}).notes
    assert "95% Student t intervals over 3 seeds" in uneven[0]
    assert "Not every arm has every seed: b." in uneven


def test_created_has_a_time_zone():
    assert datetime.fromisoformat(collect_results(arms_of("a", [0.9]), config={}).created).tzinfo is not None


def test_machine_facts_are_there():
    machine = describe_machine()
    assert machine.cores >= 1
    assert machine.processor
    assert machine.memory_gib > 0
    assert {"torch", "numpy"} <= machine.versions.keys()
