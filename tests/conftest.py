"""Settings that every test runs under: one thread, no network, no display, the global generator seeded.

Marks as slow the tests that take most of the time of the whole suite; `make check` leaves them out. Of tests with many
cases some stay in the quick tier, spread evenly, so that it covers every subject.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict

# Before torch, huggingface_hub and matplotlib are imported; the processes that tests start inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors, and two-process tests share the cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Weights and anything else drawn from the global generator do not depend on the order of the tests."""
    torch.manual_seed(0)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Nor do the weights of models that a module of tests makes while it is imported: torch's own seed is another in
    every process."""
    if isinstance(collector, pytest.Module):
        torch.manual_seed(0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


SLOW = {  # file -> test -> cases that stay in the quick tier
    "test_forecast.py": {
        "test_intervals_of_95_percent_cover_in_93_to_97_percent": 0,
        "test_estimates_agree_with_plain_paths_of_a_transformer": 2,
    },
    "test_certification.py": {
        "test_a_cell_passes_quickly": 12,
        "test_a_wrong_sampler_is_not_certified": 4,
        "test_a_wrong_stop_is_not_certified": 4,
    },
    "test_commands.py": {
        "test_the_demo_tells_its_story_from_the_data_to_a_forecast": 0,
    },
    "test_completion.py": {
        "test_bash_completes": 0,
        "test_zsh_completes": 0,
    },
    "test_compiled.py": {
        "test_a_compiled_cell_passes_quickly": 5,
        "test_a_library_that_was_cut_short_is_compiled_anew": 0,
        "test_compiled_samples_are_drawn_again_to_the_last_bit": 0,
        "test_processes_that_compile_at_once_leave_one_library": 0,
        "test_processors_with_narrower_vectors_get_the_same_contexts": 0,
        "test_without_a_folder_to_write_in_the_library_is_of_this_process": 0,
        "test_wrong_passes_are_told_from_right_ones": 1,
    },
    "test_compiled_heads.py": {
        "test_a_cell_of_the_certificate_passes_quickly": 8,
        "test_autoregressive_events_are_those_of_eager_sampling": 9,
        "test_events_are_those_of_eager_sampling": 12,
    },
    "test_compiled_distributions.py": {
        "test_wrong_distributions_and_chains_are_told_from_right_ones": 1,
    },
    "test_compiled_rounds.py": {
        "test_rounds_are_those_of_python": 12,
        "test_the_right_build_does_not_differ": 0,
        "test_what_threads_wait_for": 0,
        "test_wrong_rounds_are_told_from_right_ones": 0,
        "test_wrong_rounds_of_own_passes_are_told_from_right_ones": 0,
    },
    "test_configs.py": {
        "test_each_file_is_parsed": 14,
    },
    "test_garbage_in.py": {
        "test_odd_options": 1,
        "test_odd_commands": 1,
    },
    "test_lightning_cli.py": {
        "test_a_draft_is_distilled_and_resumed": 0,
        "test_checkpoints_of_another_run_are_left_alone": 0,
    },
    "test_lightning_distillation.py": {
        "test_it_raises_acceptance_over_likelihood_alone": 0,
    },
    "test_lightning_modules.py": {
        "test_a_compiled_model_learns_the_same": 0,
    },
    "test_lightning_sampling.py": {
        "test_whether_to_try_is_decided_by_what_is_left_of_the_job": 0,
    },
    "test_max_context.py": {
        "test_a_draft_that_forgets_drafts_the_same_in_any_batch": 4,
        "test_long_samples_after_long_histories_have_the_distribution_of_the_full_pass": 6,
    },
    "test_metrics_time_rescaling.py": {
        "test_p_values_are_uniform": 0,
    },
    "test_notebooks.py": {
        "test_notebook_runs_and_is_committed_without_output": 0,
    },
    "test_parallel_drafter.py": {
        "test_a_transformer_drafts_in_parallel": 0,
        "test_every_pass_brings_the_draft_nearer_to_one_by_one": 0,
        "test_samples_follow_the_target": 2,
        "test_the_distribution_after_the_last_pass_is_not_the_distribution_drawn_from": 0,
    },
    "test_renewal.py": {
        "test_few_events_are_not_learnt_by_heart": 0,
    },
    "test_sampling_acceptance.py": {
        "test_a_draft_equal_to_the_target_is_always_accepted": 6,
        "test_block_verification_never_accepts_less": 1,
        "test_counters_agree_with_one_another": 1,
    },
    "test_sampling_auto.py": {
        "test_a_short_job_with_a_draft_goes_by_the_fixed_rules": 2,
        "test_lengths_chosen_by_the_clock_are_replayed_by_the_options": 0,
    },
    "test_sampling_drafters.py": {
        "test_a_transformer_drafts_for_itself": 0,
        "test_samples_follow_the_target": 1,
    },
    "test_sampling_extremes.py": {
        "test_a_drafted_inter_time_beyond_the_range_of_float64_does_not_hang": 3,
        "test_a_process_is_sampled_exactly_by_every_method": 1,
        "test_inter_times_of_18_orders_of_magnitude_in_one_history": 4,
        "test_standard_deviations_at_their_clamps": 2,
    },
    "test_sampling_fidelity.py": {
        "test_model_residuals_are_independent_exponentials": 1,
        "test_speculative_and_autoregressive_samples_are_exchangeable": 1,
    },
    "test_sampling_fixed_point.py": {
        "test_it_equals_autoregressive_sampling_of_a_transformer": 2,
    },
    "test_sampling_histories.py": {
        "test_a_given_first_event_is_drawn_from_the_first_marks_of_the_data": 1,
        "test_log_probs_are_those_of_a_pass_without_a_cache": 5,
    },
    "test_sampling_invariance.py": {
        "test_a_subset_of_the_histories_in_any_order_gives_the_same_paths": 1,
        "test_batch_size_changes_nothing": 5,
        "test_float32_sequences_hardly_ever_depend_on_the_batch": 0,
    },
    "test_sampling_distribution.py": {
        "test_a_draft_without_some_of_the_targets_mass_is_corrected": 0,
        "test_draft_lengths_that_hang_on_the_past_leave_the_distribution": 0,
        "test_every_position_of_a_round_has_the_targets_distribution": 0,
        "test_paths_have_the_targets_distribution": 2,
        "test_paths_of_a_transformer_have_its_distribution": 1,
    },
    "test_sampling_mutants.py": {
        "test_dropping_the_round_that_crosses_the_end_is_seen_by_the_residuals_of_whole_windows": 0,
        "test_the_mutant_is_rejected": 5,
        "test_the_right_sampler_passes": 1,
    },
    "test_sampling_results.py": {
        "test_a_stream_yields_the_same_sequences_in_the_order_of_index": 5,
        "test_models_are_left_as_they_were": 8,
        "test_threads_that_sample_one_model_do_not_notice_each_other": 0,
    },
    "test_sampling_stopping.py": {
        "test_every_sequence_may_have_its_own_ends": 1,
        "test_num_events_keeps_the_first_ones": 1,
        "test_t_end_keeps_the_events_until_then_and_no_other": 1,
        "test_the_first_of_several_ends_counts": 1,
    },
    "test_supply.py": {
        "test_the_tests_of_the_source_distribution_pass": 0,
    },
    "test_trees_acceptance.py": {
        "test_a_draft_without_the_targets_mass_is_corrected": 1,
        "test_linear_lies_close_under_the_optimum": 0,
        "test_recursion_has_the_acceptance_of_its_formula": 0,
        "test_the_event_has_the_targets_distribution": 1,
    },
    "test_trees_attention.py": {
        "test_a_node_sees_the_past_its_ancestors_and_itself": 12,
    },
    "test_trees_mutants.py": {
        "test_the_mutant_is_rejected": 1,
        "test_the_right_sampler_passes": 1,
    },
    "test_trees_sampling.py": {
        "test_a_level_of_one_candidate_leaves_nothing_to_doubt": 0,
        "test_batch_size_changes_nothing": 1,
        "test_paths_have_the_targets_distribution_under_every_rule": 1,
        "test_paths_of_a_transformer_have_its_distribution": 1,
    },
    "test_wandb.py": {
        "test_a_run_has_its_configuration_and_the_name_of_its_data": 0,
        "test_a_run_has_learning_rates_gradients_and_the_best_values": 0,
        "test_every_panel_of_the_dashboard_has_something_of_the_run": 0,
        "test_artifacts_say_what_was_made_of_what": 0,
        "test_csv_has_the_numbers": 0,
        "test_tensorboard_has_numbers_pictures_and_tables": 0,
        "test_a_sweep_asks_for_what_fit_takes_and_logs": 0,
    },
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cases of SLOW that do not stay in the quick tier."""
    cases: dict[tuple[str, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        name = getattr(item, "originalname", None) or item.name
        if name in SLOW.get(item.path.name, {}):
            cases[item.path.name, name].append(item)
    for (file, name), own in cases.items():
        staying = SLOW[file][name]
        step = math.ceil(len(own) / staying) if staying else len(own) + 1
        for number, item in enumerate(own, start=0 if staying else 1):
            if number % step:
                item.add_marker(pytest.mark.slow)
