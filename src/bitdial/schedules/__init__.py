"""When: schedules, pure functions from the step to a value.

A schedule is any callable ``step -> value``; a layer schedule is any callable ``(step, layer) -> value``. Steps
are whole numbers from 0. The functions here check their arguments once, when the schedule is made, and return small
immutable objects: they print what they are, compare equal when they are equal, can be pickled, keep no state,
and give the same value for the same step on every machine, however often and in whatever order they are asked.

This room imports neither torch nor the rest of the package, so that a schedule can be read, tested and plotted
without a model.

>>> from bitdial import schedules
>>> bits = schedules.cosine_cycle(low=3, high=8, period=4, rounded=True)
>>> [bits(step) for step in range(8)]
[3.0, 4.0, 6.0, 7.0, 3.0, 4.0, 6.0, 7.0]
"""

from bitdial.schedules._checks import LayerSchedule as LayerSchedule
from bitdial.schedules._checks import Schedule as Schedule
from bitdial.schedules._composition import average as average
from bitdial.schedules._composition import interpolate_factors as interpolate_factors
from bitdial.schedules._composition import join as join
from bitdial.schedules._composition import per_layer as per_layer
from bitdial.schedules._composition import snap_to as snap_to
from bitdial.schedules._composition import warmup as warmup
from bitdial.schedules._curves import PROFILES as PROFILES
from bitdial.schedules._curves import cosine_cycle as cosine_cycle
from bitdial.schedules._curves import cpt as cpt
from bitdial.schedules._curves import profile as profile
from bitdial.schedules._decays import cosine_decay as cosine_decay
from bitdial.schedules._decays import hpcm as hpcm
from bitdial.schedules._decays import linear_decay as linear_decay
from bitdial.schedules._decays import step_decay as step_decay
from bitdial.schedules._stairs import ladder as ladder
from bitdial.schedules._stairs import pattern as pattern
from bitdial.schedules._stairs import progressive as progressive
from bitdial.schedules._stairs import random_bits as random_bits
from bitdial.schedules._stairs import static as static
