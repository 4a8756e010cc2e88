"""Known ways in which training goes wrong, recognised from the inferred counts.

Each shows long before the end of a run and often lasts, so that the rest of the run is wasted.
Pure functions of counts; a `Watch` says when a collapse has lasted long enough to be told.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from air_jax.metrics import UNKNOWN_COUNT

NAMES = ("no_object", "all_steps", "one_object")

# Share of the images with another true count that must follow a collapse. Collapsed runs reach
# some 100 %, healthy ones some 1 %.
_NEARLY_ALL = 0.95
# The same where the truth is unknown and nothing speaks against the counts but their sameness.
_ALL_BUT_A_FEW = 0.99
# Fewer images than this share say nothing about a run.
_SIZEABLE = 0.1
# Share of the run before which a collapse is no news: many runs begin with one and leave it.
_EARLY = 0.1

_SIGNS = {
    "no_object": "no object is used in nearly every image",
    "all_steps": "nearly every image that is not taken for empty is given all {num_steps} objects",
    "one_object": "nearly no image is given more than one object, though many hold more",
}
_CAUSES = {
    "no_object": "An object costs more than it explains",
    "all_steps": "Several windows share what one should explain",
    "one_object": "The second object was given up before it had learned to explain anything",
}
# One collapse asks for the opposite of another. Which setting did what: WORKSPACE.md.
_REMEDIES = {
    "no_object": (
        "a cheaper object at the start (prior.start larger), a larger inference.presence_logit, "
        "a lower optimizer.learning_rate, an emptier first canvas (scene.decoder_bias lower) and "
        "a scene.scale_prior whose windows hold one object"
    ),
    "all_steps": (
        "a dearer object at the start (prior.start smaller), a smaller inference.presence_logit "
        "and a scene.scale_prior whose windows hold one whole object"
    ),
    "one_object": (
        "a lower optimizer.learning_rate, a cheaper object at the start (prior.start larger) and "
        "a larger inference.presence_logit"
    ),
}
_DOUBT = "True counts are unknown, so this may be right; if it is not: "


def diagnose(
    inferred_counts: ArrayLike, num_steps: int, true_counts: ArrayLike | None = None
) -> str | None:
    """Names the collapse that the inferred counts of a set of images show.

    Where true counts are known, only images with a known one take part, and a collapse is what
    goes against the truth: it is named if more than a tenth of these images call for another
    count, and 95 % of those follow the collapse. A model that answers 0 for empty images and N
    for all others has collapsed too. Where no true count is known, 99 % have to follow it, and
    "one_object" is never named, as nothing tells it from a set of single objects.

    Args:
      inferred_counts: int `[M]`, in 0..N.
      num_steps: N, the largest count that can be inferred.
      true_counts: int `[M]`, -1 where unknown; None where all are.

    Returns:
      "no_object", "all_steps", "one_object", or None for none of these.

    Raises:
      ValueError: if the counts are not two vectors of the same length, or exceed N.
    """
    inferred = np.asarray(inferred_counts)
    true = (
        np.full(inferred.shape, UNKNOWN_COUNT) if true_counts is None else np.asarray(true_counts)
    )
    if inferred.ndim != 1 or inferred.shape != true.shape:
        raise ValueError(
            "inferred and true counts must be vectors of the same length, got shapes "
            f"{inferred.shape} and {true.shape}"
        )
    if inferred.size and not 0 <= inferred.min() <= inferred.max() <= num_steps:
        raise ValueError(
            f"inferred counts lie in {inferred.min()}..{inferred.max()}, but num_steps="
            f"{num_steps} allows 0..{num_steps}"
        )
    known = true != UNKNOWN_COUNT
    if not known.any():
        return _diagnose_without_truth(inferred, num_steps)
    inferred, true = inferred[known], true[known]
    # The images that a collapse gets wrong, and whether these follow it. Empty images that are
    # counted right do not speak against "all_steps": its usual form spares them.
    if _follow(inferred == 0, true > 0, _NEARLY_ALL):
        return "no_object"
    if _follow(inferred == num_steps, (inferred > 0) & (true < num_steps), _NEARLY_ALL):
        return "all_steps"
    if num_steps > 1 and _follow(inferred <= 1, true > 1, _NEARLY_ALL):
        return "one_object"
    return None


def advice(name: str, *, step: int, num_steps: int, truth_known: bool) -> str:
    """What to tell whoever watches the run.

    Args:
      name: one of `NAMES`.
      step: training step at which the collapse was seen.
      num_steps: N.
      truth_known: whether true counts were known when it was seen; without them the text leaves
        open that the counts are right.

    Returns:
      A paragraph: what is seen, its usual cause, the config entries that help.

    Raises:
      ValueError: if the name is not one of `NAMES`.
    """
    if name not in NAMES:
        raise ValueError(f"collapse is {name!r}; valid names are {', '.join(NAMES)}")
    doubt = "" if truth_known else _DOUBT
    cause = _CAUSES[name] if truth_known else _CAUSES[name][0].lower() + _CAUSES[name][1:]
    return (
        f"step {step:,}: {_sign(name, num_steps)} ({name}). {doubt}{cause}. The run may recover "
        "while the prior changes (prior.steps). If it does not, try in another --workdir, one at "
        f"a time: {_REMEDIES[name]}."
    )


class Watch(NamedTuple):
    """What is known of a run's collapses so far; every update gives a new one.

    Two validations in a row have to agree before anything is believed or taken back, and nothing
    is believed in the first tenth of a run.

    Attributes:
      num_steps: N.
      num_train_steps: length of the run.
      collapse: the collapse believed in at present, None for none.
      last: what the last validation alone looked like.
      told: those that were explained before; when one returns, a line is enough.
    """

    num_steps: int
    num_train_steps: int
    collapse: str | None = None
    last: str | None = None
    told: frozenset[str] = frozenset()

    def update(
        self, step: int, inferred_counts: ArrayLike, true_counts: ArrayLike | None = None
    ) -> tuple["Watch", str | None]:
        """Takes one more validation into account.

        Args:
          step: training step.
          inferred_counts: as for `diagnose`.
          true_counts: as for `diagnose`.

        Returns:
          The new watch, and what to tell, None for nothing: a warning where the new watch
          believes in a collapse, good news where it does not.

        Raises:
          ValueError: as `diagnose`.
        """
        name = diagnose(inferred_counts, self.num_steps, true_counts)
        seen = self._replace(last=name)
        if name != self.last or name == self.collapse or step < _EARLY * self.num_train_steps:
            return seen, None
        seen = seen._replace(collapse=name)
        if name is None:
            sign = _sign(str(self.collapse), self.num_steps)
            return seen, f"step {step:,}: recovered; it is no longer so that {sign}."
        if name in self.told:
            return seen, f"step {step:,}: again, {_sign(name, self.num_steps)} ({name})."
        known = true_counts is not None and np.any(np.asarray(true_counts) != UNKNOWN_COUNT)
        seen = seen._replace(told=self.told | {name})
        text = advice(name, step=step, num_steps=self.num_steps, truth_known=bool(known))
        return seen, text


def _diagnose_without_truth(inferred: np.ndarray, num_steps: int) -> str | None:
    if _follow(inferred == 0, np.ones(len(inferred), bool), _ALL_BUT_A_FEW):
        return "no_object"
    # With a single step, all that is not empty is given all steps.
    if num_steps > 1 and _follow(inferred == num_steps, inferred > 0, _ALL_BUT_A_FEW):
        return "all_steps"
    return None


def _follow(follows: np.ndarray, images: np.ndarray, share: float) -> bool:
    """Whether `images`, if they are a sizeable part of all, follow to at least this share."""
    if not images.size or images.mean() <= _SIZEABLE:
        return False
    return bool(follows[images].mean() >= share)


def _sign(name: str, num_steps: int) -> str:
    return _SIGNS[name].format(num_steps=num_steps)
