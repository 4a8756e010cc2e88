"""Bugs, as changes of the code, and the tests that fail with each; `planted_bugs.py` shows it."""

from typing import NamedTuple

SMALL = "tests/learning_test.py::test_a_small_run_learns_as_it_did"
AIR_NVIL = f"{SMALL}[small_air_nvil]"
DAIR_ENUMERATE = f"{SMALL}[small_dair_enumerate]"
WHOLE = "tests/learning_test.py::test_a_shipped_config_begins_to_learn_as_it_did"


class Bug(NamedTuple):
    """A change of the code that is wrong, and what notices.

    Attributes:
      name: what is wrong.
      file: where.
      old: the text there, which the file has once.
      new: what stands there instead.
      caught_by: tests that fail with it, as pytest names them.
    """

    name: str
    file: str
    old: str
    new: str
    caught_by: tuple[str, ...]


MOTION = "tests/render_surface_motion_test.py::test"
SWEEP = "tests/refine3d_test.py::test"
BUGS = (
    Bug(
        "edges that move with what lies behind",
        "air_jax/render/surface_motion.py",
        "jnp.where(near < far, of_one, of_other)",
        "jnp.where(near > far, of_one, of_other)",
        (f"{MOTION}_an_edge_before_another_object_moves_with_the_nearer_one",),
    ),
    Bug(
        "light that does not change as an object turns",
        "air_jax/render/surface_motion.py",
        "met.cosine + met.turning * moved[2]",
        "met.cosine",
        (f"{MOTION}_the_light_on_a_face_changes_as_it_turns",),
    ),
    Bug(
        "edges of which one side alone changes",
        "air_jax/render/surface_motion.py",
        "padded(0, 1) + padded(1, 0)",
        "2 * padded(0, 1)",
        (f"{MOTION}_an_edge_changes_both_pixels_at_its_sides_alike",),
    ),
    Bug(
        "a sweep that skips what moves into a removed object's place",
        "air_jax/refine3d.py",
        "removed = air.num_steps - 1 - i % air.num_steps",
        "removed = i % air.num_steps",
        (f"{SWEEP}_every_object_is_taken_away_once_whatever_is_kept",),
    ),
    Bug(
        "sign of the KL of z_what (nvil)",
        "air_jax/estimators.py",
        'terms["log_p_pres"] - terms["kl_where"] - terms["kl_what"]',
        'terms["log_p_pres"] - terms["kl_where"] + terms["kl_what"]',
        (
            AIR_NVIL,
            f"{WHOLE}[air_nvil]",
        ),
    ),
    Bug(
        "sign of the KLs (enumerate)",
        "air_jax/objectives.py",
        "prior.log_prob_counts() - kl",
        "prior.log_prob_counts() + kl",
        (
            DAIR_ENUMERATE,
            f"{WHOLE}[dair_enumerate]",
        ),
    ),
    Bug(
        "KL of objects that are absent",
        "air_jax/objectives.py",
        '"kl_what": (trace.z_pres * trace.kl_what).sum(-1)',
        '"kl_what": trace.kl_what.sum(-1)',
        (AIR_NVIL,),
    ),
    Bug(
        "log q(z_pres) of steps after the first zero",
        "air_jax/distributions.py",
        "return reached(value) * jax.nn.log_sigmoid(",
        "return jax.nn.log_sigmoid(",
        (
            AIR_NVIL,
            "tests/distributions_test.py::test_only_decisions_are_charged",
        ),
    ),
    Bug(
        "log q(z_pres) without the first zero's own term",
        "air_jax/distributions.py",
        "return reached(value) * jax.nn.log_sigmoid(",
        "return value * jax.nn.log_sigmoid(",
        (AIR_NVIL,),
    ),
    Bug(
        "baseline trained at steps after the first zero",
        "air_jax/estimators.py",
        'known = mask * moments.weight > 0\n    if centring == "leave_one_out":',
        'known = jnp.ones_like(mask) * moments.weight > 0\n    if centring == "leave_one_out":',
        ("tests/estimators_test.py::test_the_baseline_is_trained_at_the_steps_that_were_reached",),
    ),
    Bug(
        "moving moments of steps after the first zero",
        "air_jax/control_variates.py",
        "Moments(mask, mask * signal, mask * jnp.square(signal))",
        "Moments(mask, signal, jnp.square(signal))",
        ("tests/control_variates_test.py::test_moments_standardise",),
    ),
    Bug(
        "gradients not averaged over the devices",
        "air_jax/train.py",
        "gradients = jax.lax.pmean(gradients, axis_name)",
        "gradients = gradients",
        (
            AIR_NVIL,
            DAIR_ENUMERATE,
            f"{WHOLE}[dair_enumerate]",
            "tests/train_test.py::test_mapped_devices_average_gradients_metrics_and_statistics",
        ),
    ),
    Bug(
        "moving statistics not averaged over the devices",
        "air_jax/train.py",
        "        for name, subtree in gradients.items():",
        "        observed = jax.tree.map(lambda leaf: leaf.mean(0), output.statistics)\n"
        "        for name, subtree in gradients.items():",
        (
            AIR_NVIL,
            "tests/train_test.py::test_mapped_devices_average_gradients_metrics_and_statistics",
        ),
    ),
    Bug(
        "input of the baseline not stopped",
        "air_jax/models/modules.py",
        "jax.lax.stop_gradient(errors).reshape",
        "errors.reshape",
        (
            "tests/estimators_test.py::test_the_baseline_learns_from_its_own_loss_alone_and_the_model_from_none_of_it",
        ),
    ),
    Bug(
        "signal of the score function not stopped",
        "air_jax/estimators.py",
        "jax.lax.stop_gradient(_each_sample(objectives.downstream_signal, trace, prior))",
        "_each_sample(objectives.downstream_signal, trace, prior)",
        (AIR_NVIL,),
    ),
    Bug(
        "baseline not stopped in the score function",
        "air_jax/estimators.py",
        "mean - deviation * jax.lax.stop_gradient(baseline)",
        "mean - deviation * baseline",
        (AIR_NVIL,),
    ),
    Bug(
        "baseline without its loss",
        "air_jax/estimators.py",
        "value = value + baseline_loss",
        "value = value + 0.0 * baseline_loss",
        (AIR_NVIL, f"{WHOLE}[dair_nvil]"),
    ),
    Bug(
        "signal without the likelihood of the canvas so far",
        "air_jax/estimators.py",
        "_downstream_signal(trace, prior) - trace.log_p_x_before",
        "_downstream_signal(trace, prior)",
        (AIR_NVIL,),
    ),
    Bug(
        "signal of the steps before instead of those after",
        "air_jax/objectives.py",
        "jnp.cumsum(step_terms[:, ::-1], axis=-1)[:, ::-1]",
        "jnp.cumsum(step_terms, axis=-1)",
        (
            "tests/objectives_test.py::test_downstream_signal_drops_exactly_the_terms_before_the_step",
        ),
    ),
    Bug(
        "score function left out",
        "air_jax/estimators.py",
        "-(_pathwise(trace, prior) + score), baseline_loss",
        "-_pathwise(trace, prior), baseline_loss",
        (AIR_NVIL,),
    ),
    Bug(
        "weights q(n) of enumerate stopped",
        "air_jax/estimators.py",
        "return -(jnp.exp(log_q) * elbo).sum(-1)",
        "return -(jax.lax.stop_gradient(jnp.exp(log_q)) * elbo).sum(-1)",
        (
            DAIR_ENUMERATE,
            f"{WHOLE}[air_enumerate]",
        ),
    ),
    Bug(
        "prior's schedule half as fast",
        "air_jax/distributions.py",
        "progress = jnp.clip(step / steps, 0.0, 1.0)",
        "progress = jnp.clip(step / (2 * steps), 0.0, 1.0)",
        (DAIR_ENUMERATE,),
    ),
    Bug(
        "learning rate ten times",
        "air_jax/train.py",
        "optax.adam(schedule(learning_rate))",
        "optax.adam(schedule(10 * learning_rate))",
        (
            AIR_NVIL,
            DAIR_ENUMERATE,
        ),
    ),
    Bug(
        "learning rate falls from the first step on",
        "air_jax/train.py",
        "num_steps // 2, transition_begin=num_steps // 2",
        "num_steps // 2, transition_begin=0",
        (
            DAIR_ENUMERATE,
            "tests/train_test.py::test_model_and_baseline_have_their_own_rates_that_fall_in_the_second_half",
        ),
    ),
    Bug(
        "gradient not clipped",
        "air_jax/train.py",
        "optax.clip_by_global_norm(clip_norm), ",
        "",
        (
            "tests/train_test.py::test_the_model_s_gradient_is_clipped_to_its_norm_and_the_baseline_s_is_not",
        ),
    ),
    Bug(
        "optimizers of model and baseline swapped",
        "air_jax/train.py",
        "lambda params: {name: name for name in params}",
        "lambda params: {name: min({*params} - {name}) for name in params}",
        (
            "tests/train_test.py::test_model_and_baseline_have_their_own_rates_that_fall_in_the_second_half",
        ),
    ),
    Bug(
        "moving statistics with past and present swapped",
        "air_jax/train.py",
        "statistics_decay * past + (1 - statistics_decay) * now",
        "statistics_decay * now + (1 - statistics_decay) * past",
        (
            AIR_NVIL,
            "tests/train_test.py::test_one_step_by_hand",
        ),
    ),
    Bug(
        "place shifts the other way than attend",
        "air_jax/models/spatial_transformer.py",
        "_pixel_centres(image_size) * scale + shift",
        "_pixel_centres(image_size) * scale - shift",
        (
            DAIR_ENUMERATE,
            "tests/models_spatial_transformer_test.py::test_place_then_attend_returns_a_smooth_window",
        ),
    ),
    Bug(
        "sign of DAIR's error canvas",
        "air_jax/models/air.py",
        "return images - canvas",
        "return canvas - images",
        ("tests/models_air_test.py::test_what_comes_before_a_step_is_known_to_it",),
    ),
    Bug(
        "DAIR sees the image in place of the error canvas",
        "air_jax/models/air.py",
        "projected = self.projection(error)",
        "projected = self.projection(images)",
        ("tests/models_air_test.py::test_later_steps_depend_on_earlier_latents[dair]",),
    ),
    Bug(
        "LSTM forgets between the objects",
        "air_jax/models/air.py",
        "lstm = self.cell(memory.lstm, projected, memory.latents)",
        "lstm = self.cell(self.cell.initial_carry(len(images)), projected, memory.latents)",
        ("tests/models_air_test.py::test_a_decision_depends_on_what_the_recurrence_remembers",),
    ),
    Bug(
        "noise shared between the examples of a device",
        "air_jax/models/air.py",
        "return jax.vmap(draw)(keys)",
        "return jax.vmap(lambda key: draw(keys[0]))(keys)",
        (AIR_NVIL,),
    ),
    Bug(
        "noise of z_pres shared between the objects",
        "air_jax/models/air.py",
        "jax.random.uniform(key_pres, (num_steps,))",
        "jnp.broadcast_to(jax.random.uniform(key_pres), (num_steps,))",
        (AIR_NVIL,),
    ),
    Bug(
        "noise shared between the steps of a call",
        "air_jax/parallel.py",
        "jax.random.wrap_key_data(numbers[now], impl=implementation)",
        "jax.random.wrap_key_data(numbers[0], impl=implementation)",
        (AIR_NVIL,),
    ),
    Bug(
        "the same batch at every step of a call",
        "air_jax/parallel.py",
        "images = dataset[now] if streamed else dataset[indices[now]]",
        "images = dataset[0] if streamed else dataset[indices[0]]",
        (DAIR_ENUMERATE,),
    ),
    Bug(
        "the same batches and noise in every call",
        "air_jax/parallel.py",
        "first + jnp.arange(steps_per_call)",
        "jnp.arange(steps_per_call)",
        ("tests/parallel_test.py::test_steps_see_what_was_drawn_for_the_state_s_own_step",),
    ),
    Bug(
        "Adam starts anew at every call",
        "air_jax/loop.py",
        "        state, metrics = run_steps(state, *arguments)\n",
        "        fresh = jax.tree.map(jnp.zeros_like, state.opt_state)\n"
        "        state, metrics = run_steps(state.replace(opt_state=fresh), *arguments)\n",
        ("tests/loop_test.py::test_calls_of_another_length_take_the_same_steps",),
    ),
    Bug(
        "deviation of the likelihood twice as large",
        "air_jax/distributions.py",
        "jnp.square((images - means) / scale)",
        "jnp.square((images - means) / (2 * scale))",
        (DAIR_ENUMERATE,),
    ),
    Bug(
        "decoder without its initial bias",
        "air_jax/models/modules.py",
        "MLP(self.hidden, size, bias=self.bias)(z_what)",
        "MLP(self.hidden, size)(z_what)",
        (DAIR_ENUMERATE,),
    ),
    Bug(
        "images in units of 128",
        "air_jax/parallel.py",
        "astype(jnp.float32) / 255.0",
        "astype(jnp.float32) / 128.0",
        (DAIR_ENUMERATE,),
    ),
    Bug(
        "z_what not sampled",
        "air_jax/models/air.py",
        "z_what = q_what.loc + q_what.scale_diag * noise[1]",
        "z_what = q_what.loc",
        (DAIR_ENUMERATE,),
    ),
)
